"""Two ways to lay the rows of a batch into one forward pass; both give the same logits.

Packed: the suffixes of many probes stand one after the other in one sequence, behind the clean keys and values of their
prompts, and a mask lets each see only its own past; the draws are the batch dimension. No token is padding, and nothing
before an edited position is computed again. Full: each row is the whole prompt, with no cache and no mask; for models
whose attention a mask cannot steer.
"""

import inspect
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from noiser.errors import DeviceMemoryError, ModelError
from noiser.lm.devices import TOO_LARGE, hooked, unify_memory_errors
from noiser.lm.kv_cache import CleanRun, prefix_cache
from noiser.lm.perturbation import AddNoise, Batch, PerturbedRows
from noiser.lm.quantity import token_logit_fn


class Full:
    """Whole prompts as rows."""

    name = "full"
    packs = False
    """Whether the probes of a batch share one sequence, whose length is then limited."""

    def tokens(self, probe: PerturbedRows) -> int:
        """How many one row of this probe takes."""
        return len(probe.clean.prompt)

    def kind(self, probe: PerturbedRows) -> tuple[int, ...]:
        """Only probes of equal kind may share a batch."""
        return len(probe.clean.prompt), *probe.logit_fn.ends

    def logits(self, model: Any, batch: Batch, edited: Sequence[Tensor]) -> Float[Tensor, "rows kept vocab"]:
        """The logits at every probe's ends, probe by probe, in every row."""
        before = [probe.clean.embeds[: probe.perturbation.start] for probe in batch.probes]
        rows = torch.stack([_row(*parts) for parts in zip(before, edited, _rest(batch), strict=True)], dim=1)
        length, ends = len(batch.probes[0].clean.prompt), batch.probes[0].logit_fn.ends
        logits = model(inputs_embeds=rows.flatten(0, 1), use_cache=False, logits_to_keep=length - ends[0]).logits.to(rows.device)
        places = [end - length for end in ends]
        return logits[:, places].unflatten(0, rows.shape[:2]).flatten(1, 2)


class Packed:
    """Suffixes behind a shared clean prefix."""

    name = "packed"
    packs = True

    def tokens(self, probe: PerturbedRows) -> int:
        """How many one row of this probe takes."""
        return len(probe.clean.prompt) - probe.perturbation.start

    def kind(self, probe: PerturbedRows) -> tuple[int, ...]:  # noqa: ARG002  (as Full.kind)
        """Any probes may share a batch."""
        return ()

    def logits(self, model: Any, batch: Batch, edited: Sequence[Tensor]) -> Float[Tensor, "rows kept vocab"]:
        """The logits at every probe's ends, probe by probe, in every row."""
        deepest: dict[CleanRun, int] = {}
        for probe in batch.probes:
            deepest[probe.clean.source] = max(probe.perturbation.start, deepest.get(probe.clean.source, 0))
        suffixes = [_row(*parts) for parts in zip(edited, _rest(batch), strict=True)]
        starts = np.cumsum([0] + [suffix.shape[1] for suffix in suffixes]).tolist()
        kept = [
            start + end - probe.perturbation.start
            for start, probe in zip(starts, batch.probes, strict=False)
            for end in probe.logit_fn.ends
        ]
        columns = _Columns.prefixes(list(deepest), list(deepest.values()))
        queries = _Columns.suffixes(batch.probes, list(deepest))
        return _masked_forward(model, torch.cat(suffixes, dim=1), queries, columns, kept, prefix_cache(list(deepest.items())))


def _rest(batch: Batch) -> list[Tensor]:
    """What follows each probe's edited stretch."""
    return [probe.clean.embeds[probe.perturbation.start + probe.perturbation.span :] for probe in batch.probes]


def _row(*parts: Tensor) -> Float[Tensor, "rows length dim"]:
    """Parts one after the other; those that are the same in every row are expanded."""
    rows = max(len(part) for part in parts if part.dim() == 3)
    return torch.cat([part if part.dim() == 3 else part.expand(rows, -1, -1) for part in parts], dim=1)


Layout = Full | Packed


def packed_clean(
    model: Any, embeds: Sequence[Float[Tensor, "_ dim"]], ends: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "kept vocab"], DynamicCache]:
    """Several whole prompts in one sequence, each seeing itself only: the logits at each one's ends, and the joint cache."""
    lengths = [len(each) for each in embeds]
    queries = _Columns(
        owner=np.repeat(np.arange(len(lengths)), lengths),
        position=np.concatenate([np.arange(n) for n in lengths]),
        first=np.zeros(sum(lengths), dtype=int),
        row=np.repeat(np.arange(len(lengths)), lengths),
    )
    cache = DynamicCache()
    starts = np.cumsum([0, *lengths]).tolist()
    kept = [start + end for start, own in zip(starts, ends, strict=False) for end in own]
    return _masked_forward(model, torch.cat(list(embeds))[None], queries, None, kept, cache)[0], cache


class _Columns:
    """Where each column of the attention matrix comes from."""

    def __init__(self, owner: np.ndarray, position: np.ndarray, first: np.ndarray, row: np.ndarray) -> None:
        self.owner, self.position, self.first, self.row = owner, position, first, row

    @classmethod
    def prefixes(cls, cleans: Sequence[CleanRun], lengths: Sequence[int]) -> "_Columns":
        total = sum(lengths)
        position = np.concatenate([np.arange(n) for n in lengths])
        return cls(np.repeat(np.arange(len(cleans)), lengths), position, np.zeros(total, dtype=int), np.full(total, -1))

    @classmethod
    def suffixes(cls, probes: Sequence[PerturbedRows], cleans: Sequence[CleanRun]) -> "_Columns":
        place = {clean: number for number, clean in enumerate(cleans)}
        starts = np.array([probe.perturbation.start for probe in probes])
        lengths = np.array([len(probe.clean.prompt) for probe in probes]) - starts
        position = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        owner = np.repeat([place[probe.clean.source] for probe in probes], lengths)
        return cls(owner, position, np.repeat(starts, lengths), np.repeat(np.arange(len(probes)), lengths))


def _visible(queries: _Columns, prefix: _Columns | None) -> Bool[np.ndarray, "queries keys"]:
    """A query sees the clean positions of its own prompt before its edit, and its own row up to itself."""
    own = (queries.row[:, None] == queries.row) & (queries.position <= queries.position[:, None])
    if prefix is None:
        return own
    before = (queries.owner[:, None] == prefix.owner) & (prefix.position < queries.first[:, None])
    return np.concatenate([before, own], axis=1)


def _masked_forward(
    model: Any, rows: Tensor, queries: _Columns, prefix: _Columns | None, kept: list[int], cache: Any
) -> Float[Tensor, "rows kept vocab"]:
    seen = _visible(queries, prefix)
    key_position = queries.position if prefix is None else np.concatenate([prefix.position, queries.position])
    distance = queries.position[:, None] - key_position
    return model(
        inputs_embeds=rows,
        attention_mask=_masks(model.config.get_text_config(), seen, distance, rows),
        position_ids=torch.from_numpy(queries.position).to(rows.device).expand(len(rows), -1),
        past_key_values=cache,
        use_cache=True,
        # As a list where accelerate would move a tensor to the first device, and the last layer's states lie on another.
        logits_to_keep=kept if hooked(model) else torch.tensor(kept, device=rows.device),
    ).logits.to(rows.device)


def exceeds_window(config: Any, seq: int) -> bool:
    """Whether some layer's sliding window is shorter than a prompt of `seq` tokens."""
    window = getattr(config, "sliding_window", None)
    return bool(window) and seq > window and set(getattr(config, "layer_types", None) or ["sliding_attention"]) != {"full_attention"}


def _masks(config: Any, seen: np.ndarray, distance: np.ndarray, rows: Tensor) -> Any:
    """One additive mask; or, where some layers slide and some do not, one by layer type, as transformers takes them."""
    plain = _additive(seen, rows)
    if not exceeds_window(config, int(distance.max()) + 1):
        return plain
    sliding = _additive(seen & (distance < config.sliding_window), rows)
    mixed = "full_attention" in (getattr(config, "layer_types", None) or ())
    return {"full_attention": plain, "sliding_attention": sliding} if mixed else sliding


def _additive(seen: np.ndarray, rows: Tensor) -> Float[Tensor, "1 1 queries keys"]:
    mask = torch.zeros(seen.shape, dtype=rows.dtype, device=rows.device)
    return mask.masked_fill_(torch.from_numpy(~seen).to(rows.device), torch.finfo(rows.dtype).min)[None, None]


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


def choose_layout(model: Any, clean: CleanRun) -> tuple[Layout, str]:
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
    with suppress(DeviceMemoryError), unify_memory_errors():
        return layout.logits(model, batch, batch.edited())
    halves = batch.halves()
    if halves is None:
        raise DeviceMemoryError(TOO_LARGE)
    return torch.cat([_in_parts(layout, model, half) for half in halves], dim=1 if len(batch.probes) > 1 else 0)


def _edits(clean: CleanRun) -> Batch:
    size = clean.embeds.float().std()
    noise = torch.randn(2, 1, clean.embeds.shape[1], generator=torch.Generator().manual_seed(0)).to(clean.embeds.device) * size
    last = len(clean.prompt) - 1
    measure = token_logit_fn("prob", (0,), (last,))
    return Batch(tuple(PerturbedRows(clean, AddNoise(p, noise, 1.0), measure) for p in (0, last // 2, last)), (0, 1, 2), range(2))
