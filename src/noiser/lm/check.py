"""What a model can do, found out by trying it, so that no architecture needs a line of its own."""

import inspect
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from noiser.errors import DeviceMemoryError, ModelError
from noiser.lm.edit import Shift
from noiser.lm.layout import Full, Layout, Packed
from noiser.lm.measure import chosen
from noiser.lm.memory import TOO_LARGE, memory_told_apart
from noiser.lm.prefix import Clean
from noiser.lm.probe import Batch, Probe

TOLERANCE = 0.05
"""How far two ways to the same logits may differ, as a share of what an edit changes: rounding is far below, an error is not."""


def check_signature(model: Any) -> None:
    """Raises ModelError, naming the model's class, unless it is a decoder that takes embeddings."""
    name = type(model).__name__
    parameters = inspect.signature(model.forward).parameters
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder; noiser explains decoders, which continue their own prompt")
    if "inputs_embeds" not in parameters:
        raise ModelError(f"{name} does not accept inputs_embeds, so no token's embedding can be perturbed")
    if "logits_to_keep" not in parameters:
        raise ModelError(f"{name} does not accept logits_to_keep, so it would compute the logits of every position of every row")


def check_embeddings(model: Any, ids: Tensor, from_embeds: Float[Tensor, " vocab"]) -> None:
    """Raises ModelError where the model predicts one thing from ids and another from their embeddings."""
    from_ids = model(input_ids=ids[None], use_cache=False, logits_to_keep=1).logits[0, -1].float().softmax(-1).to(from_embeds.device)
    gap = (from_ids - from_embeds).abs().sum() / 2
    if gap > TOLERANCE:
        raise ModelError(
            f"{type(model).__name__} predicts differently from inputs_embeds than from the same input_ids (by {gap:.2g} of the "
            "probability), so perturbing embeddings would not explain it"
        )


def choose_layout(model: Any, clean: Clean) -> tuple[Layout, str]:
    """The packed layout where it reproduces the full one on edits of this prompt; else the full one, and why."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return Full(), "the model takes no position_ids"
    if model.config._attn_implementation not in ("sdpa", "eager"):
        return Full(), f"a mask cannot steer {model.config._attn_implementation}"
    if not clean.layers:
        return Full(), "the model keeps more than keys and values"
    batch = _edits(clean)
    full = _in_parts(Full(), model, batch).float()
    try:
        packed = _in_parts(Packed(), model, batch).float()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        return Full(), f"the packed layout failed: {type(error).__name__}: {error}"
    effect, gap = (full[0] - full[1]).norm(dim=-1).max(), (full - packed).norm(dim=-1).max()
    if gap <= TOLERANCE * effect:
        return Packed(), ""
    return Full(), f"the packed layout's logits differ by {gap / effect:.2g} of an edit's effect"


def _in_parts(layout: Layout, model: Any, batch: Batch) -> Float[Tensor, "rows probes vocab"]:
    """The logits of a batch, of its halves where it does not fit, and of theirs; memory must not decide about the layout."""
    with suppress(DeviceMemoryError), memory_told_apart():
        return layout.logits(model, batch, batch.edited())
    halves = batch.halves()
    if halves is None:
        raise DeviceMemoryError(TOO_LARGE)
    return torch.cat([_in_parts(layout, model, half) for half in halves], dim=1 if len(batch.probes) > 1 else 0)


def _edits(clean: Clean) -> Batch:
    size = clean.embeds.float().std()
    noise = torch.randn(2, 1, clean.embeds.shape[1], generator=torch.Generator().manual_seed(0)).to(clean.embeds.device) * size
    last = len(clean.prompt) - 1
    measure = chosen("prob", (0,), (last,))
    return Batch(tuple(Probe(clean, Shift(p, noise, 1.0), measure) for p in (0, last // 2, last)), (0, 1, 2), range(2))
