"""A short trial of a model before it is explained: it must run, take embeddings for ids, and not look ahead."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from noiser.errors import ModelError, ModelFailedError, NoiserError, Stopped
from noiser.lm.checkpoint import first_line
from noiser.lm.devices import is_out_of_memory

SAME_PREDICTION = 0.05
"""The largest difference between the prediction from ids and that from embeddings, as a share of the probability."""
ROUNDING, LOW_PRECISION_ROUNDING = 0.001, 0.02
"""The largest change of earlier logits by a later token, as a share of the change of its own logits."""
LONGEST = 32
"""Tokens of the trial: the first of the ids given."""
KEPT = 2
"""Positions whose logits are compared: that of the changed token and the one before it."""


def check_decoder(model: Any, ids: Sequence[int]) -> int:
    """Try the model on a short prompt. Returns the number of tokens that went through it.

    ids  token ids of any prompt. Two or more tell whether the model looks ahead; the first 32 are used.

    Raises ModelError, with the model's class, if the model fails, if it predicts differently from embeddings than from the same
    ids, or if a later token changes the logits of an earlier one. The caller sets the evaluation mode.
    """
    embedding = model.get_input_embeddings()
    prompt = torch.tensor(list(ids[:LONGEST]), device=embedding.weight.device)
    from_embeds = _logits(model, "on embeddings", inputs_embeds=embedding(prompt)[None])
    _check_embeddings(model, _logits(model, "on token ids", input_ids=prompt[None]), from_embeds)
    if len(prompt) < KEPT or len(from_embeds) < KEPT:  # a model that returns its last logits only has no earlier ones
        return 2 * len(prompt)
    changed = prompt.clone()
    changed[-1] = _another(changed, len(embedding.weight))
    _check_causality(model, from_embeds, _logits(model, "on embeddings", inputs_embeds=embedding(changed)[None]))
    return 3 * len(prompt)


def failure(model: Any, step: str, error: Exception) -> ModelFailedError:
    """The error for whatever a model raised: the model, the step, the cause and what to do."""
    cause = first_line(error).removeprefix(f"{type(error).__name__}: ")
    return ModelFailedError(
        f"{type(model).__name__} failed {step}: {type(error).__name__}: {cause}. Check that the model runs by itself on this prompt, "
        "and try a shorter prompt or another attention implementation (--attention eager)"
    )


def _logits(model: Any, step: str, **inputs: Tensor) -> Float[Tensor, "kept vocab"]:
    """The logits of the last positions. Raises ModelError for anything that the model raises, except a full memory."""
    try:
        return model(**inputs, use_cache=False, logits_to_keep=KEPT).logits[0].float()
    except (NoiserError, Stopped):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise failure(model, f"{step} when it was tried", error) from error


def _check_embeddings(model: Any, from_ids: Float[Tensor, "kept vocab"], from_embeds: Float[Tensor, "kept vocab"]) -> None:
    """Raises ModelError if the model predicts differently from token ids than from their embeddings."""
    difference = (from_ids[-1].softmax(-1) - from_embeds[-1].softmax(-1)).abs().sum() / 2
    if difference > SAME_PREDICTION:
        raise ModelError(
            f"{type(model).__name__} predicts differently from inputs_embeds than from the same input_ids (by {difference:.2g} of the "
            "probability), so perturbing embeddings would not explain it"
        )


def _check_causality(model: Any, logits: Float[Tensor, "kept vocab"], changed: Float[Tensor, "kept vocab"]) -> None:
    """Raises ModelError if the logits before the changed token differ by more than rounding."""
    before, own = (changed - logits).norm(dim=-1).tolist()
    tolerance = ROUNDING if model.dtype in (torch.float32, torch.float64) else LOW_PRECISION_ROUNDING
    if before > tolerance * own:
        raise ModelError(
            f"{type(model).__name__} looks ahead: a later token changes the logits of an earlier one (by {before / max(own, 1e-9):.2g} of "
            "the change of its own). noiser explains decoders, in which a token sees only those before it. An encoder (BERT, RoBERTa) "
            "is none; if this one was trained as a decoder, set is_decoder=true in its config.json"
        )


def _another(ids: Tensor, size: int) -> int:
    """A token other than the last: one of the prompt's own if there is one."""
    last = int(ids[-1])
    return next((int(other) for other in ids if int(other) != last), (last + 1) % size)
