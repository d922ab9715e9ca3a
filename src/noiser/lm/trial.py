"""What a model must be to be explained from the embeddings of its prompt: found out by trying, once per model."""

import inspect
from typing import Any

import torch
from torch import Tensor

from noiser.errors import DeviceMemoryError, ModelError, ModelFailedError
from noiser.lm.checkpoint import first_line
from noiser.lm.devices import unify_memory_errors
from noiser.lm.forward import call_model, run_prompt

TRIAL_TOKENS = 8
TOLERANCE = 0.05
"""The largest difference between two distributions of the next token that should be the same, as a share of the probability. In
float32 it is far smaller: a model that adds a little of its own to ids (Gemma 3n) is not explained by its embeddings."""


def check_signature(model: Any) -> None:
    """Raises ModelError, with the model's class, unless the model accepts embeddings."""
    if "inputs_embeds" not in inspect.signature(model.forward).parameters:
        raise ModelError(f"{type(model).__name__} does not accept inputs_embeds, so no token's embedding can be perturbed")


def check_decoder(model: Any, ids: Tensor) -> None:
    """Try the model on a few tokens. `ids`: TRIAL_TOKENS ordinary ids [tokens], on the device of the model's inputs.

    Raises ModelError if the model fails on embeddings, if it predicts differently from embeddings than from the same ids, or if
    its prediction depends on later tokens.
    """
    name = type(model).__name__
    with unify_memory_errors():
        from_ids = _probs(model, "token ids", input_ids=ids[None])
        embeds = model.get_input_embeddings()(ids)[None]
        from_embeds = _probs(model, "embeddings", inputs_embeds=embeds.clone())
        _probs(model, "perturbed embeddings", inputs_embeds=0.9 * embeds)
        changed = torch.cat([ids[:-1], ids[:1]])
        other_end = _probs(model, "token ids", input_ids=changed[None])
    difference = float((from_ids - from_embeds).abs().sum(-1).max() / 2)
    if difference > _rounding(model.dtype):
        raise ModelError(
            f"{name} predicts differently from inputs_embeds than from the same input_ids (by {difference:.2g} of the "
            "probability), so perturbing embeddings would not explain it"
        )
    moved = float((from_ids - other_end)[:-1].abs().sum(-1).max() / 2)
    if moved > _rounding(model.dtype):
        raise ModelError(
            f"{name} is not a causal decoder: its prediction at one token changes (by {moved:.2g} of the probability) when a later token "
            "changes. noiser explains models that read from left to right"
        )


def why_not_differentiable(model: Any, ids: Tensor) -> str:
    """Why the model has no gradient: it fails with one on these ids [tokens], and not without. Otherwise empty."""
    error = None if _failure(model, ids, gradient=False) else _failure(model, ids, gradient=True)
    if error is None or isinstance(error, DeviceMemoryError):
        return ""
    cause = first_line(error.__cause__ or error)
    return f"{type(model).__name__} has no gradient: {cause}. Use a method without gradients (noiser, occlusion)"


def _failure(model: Any, ids: Tensor, *, gradient: bool) -> Exception | None:
    """What the model raises in one pass."""
    try:
        with torch.set_grad_enabled(gradient), unify_memory_errors():
            embeds = model.get_input_embeddings()(ids).detach().requires_grad_(gradient)
            logits, _ = run_prompt(model, embeds, [len(ids) - 1])
            if gradient:
                torch.autograd.grad(logits.sum(), embeds)
    except Exception as error:  # noqa: BLE001  (whatever a model raises)
        return error
    return None


def _rounding(dtype: torch.dtype) -> float:
    return 1e-4 if dtype in (torch.float32, torch.float64) else TOLERANCE


def _probs(model: Any, inputs: str, **tensors: Tensor) -> Tensor:
    try:
        logits = call_model(model, **tensors, use_cache=False).logits[0]
    except ModelFailedError as error:
        if "input_ids" not in tensors and error.__cause__ is not None:
            raise ModelFailedError(
                f"{type(model).__name__} runs from token ids and fails from {inputs}, so no token's embedding can be perturbed: "
                f"{first_line(error.__cause__)}"
            ) from error.__cause__
        raise ModelFailedError(f"a trial of this model with {inputs} failed, so it cannot be explained: {error}") from error.__cause__
    return logits.float().softmax(-1).to("cpu")
