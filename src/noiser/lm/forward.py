"""Two layouts of a batch's rows in one forward pass. Both give the same logits.

Packed: the suffixes of all members stand one after the other in one sequence, behind the cached keys and values of their
prompts. A mask lets each suffix see only its own past. The draws are the batch dimension. No token is padding, and nothing
before a perturbed position is computed again.
Full: each row is the whole prompt, without cache and mask. It serves models whose attention a mask cannot control.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from noiser.errors import ModelFailedError, NoiserError, Stopped
from noiser.lm.checkpoint import first_line, keeps_logits
from noiser.lm.devices import has_accelerate_hook, is_out_of_memory
from noiser.lm.kv_cache import CleanRun, LayoutName, new_cache, prefix_cache
from noiser.lm.perturbation import Batch, PerturbedRows


def call_model(model: Any, **inputs: Any) -> Any:
    """The model's output. Raises ModelFailedError for whatever the model raises. Memory errors and Stopped pass through.

    `logits_to_keep`: the logits of the last so many positions, or of these. A model that does not take it computes them all.
    """
    kept = None if keeps_logits(model) else inputs.pop("logits_to_keep", None)
    try:
        output = model(**inputs)
        if kept is not None:
            output.logits = output.logits[:, slice(-kept, None) if isinstance(kept, int) else kept]
        return output  # noqa: TRY300  (choosing the logits may be out of memory too)
    except (NoiserError, Stopped, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        rows, tokens = next((tuple(value.shape[:2]) for value in inputs.values() if isinstance(value, Tensor)), (0, 0))
        raise failure(model, f"on {rows} row{'s' * (rows != 1)} of {tokens} tokens", error) from error


def failure(model: Any, step: str, error: Exception) -> ModelFailedError:
    """The error for whatever a model raised: the model, the step, the cause and what to do."""
    cause = first_line(error).removeprefix(f"{type(error).__name__}: ")
    return ModelFailedError(
        f"{type(model).__name__} fails {step}: {type(error).__name__}: {cause}. Check that the model runs by itself on this prompt, and "
        "try a shorter prompt or another attention implementation (--attention eager)"
    )


class Full:
    """Each row is a whole prompt."""

    name = "full"
    packs = False
    """Whether the members of a batch share one sequence, whose length is then limited."""

    def tokens(self, rows: PerturbedRows) -> int:
        """The number of tokens that go through the model for one row."""
        return len(rows.clean.prompt)

    def kind(self, rows: PerturbedRows) -> tuple[int, ...]:
        """Only rows of equal kind may share a batch."""
        return len(rows.clean.prompt), *rows.logit_fn.ends

    def logits(self, model: Any, batch: Batch, embeds: Sequence[Tensor]) -> Float[Tensor, "rows kept vocab"]:
        """The logits at each member's ends, member by member, in each row."""
        before = [member.clean.embeds[: member.perturbation.start] for member in batch.members]
        rows = torch.stack([_row(*parts) for parts in zip(before, embeds, _after_span(batch), strict=True)], dim=1)
        length, ends = len(batch.members[0].clean.prompt), batch.members[0].logit_fn.ends
        logits = call_model(model, inputs_embeds=rows.flatten(0, 1), use_cache=False, logits_to_keep=length - ends[0]).logits.to(
            rows.device
        )
        return logits[:, [end - length for end in ends]].unflatten(0, rows.shape[:2]).flatten(1, 2)


class Packed:
    """Each row is the suffixes of all members, behind a shared clean prefix."""

    name = "packed"
    packs = True

    def tokens(self, rows: PerturbedRows) -> int:
        """The number of tokens that go through the model for one row."""
        return len(rows.clean.prompt) - rows.perturbation.start

    def kind(self, rows: PerturbedRows) -> tuple[int, ...]:
        """Only rows of equal kind may share a batch."""
        return (rows.clean.length_class(len(rows.clean.prompt)),)

    def logits(self, model: Any, batch: Batch, embeds: Sequence[Tensor]) -> Float[Tensor, "rows kept vocab"]:
        """The logits at each member's ends, member by member, in each row."""
        prefix_lengths = longest_prefixes(batch.members)
        suffixes = [_row(*parts) for parts in zip(embeds, _after_span(batch), strict=True)]
        starts = np.cumsum([0] + [suffix.shape[1] for suffix in suffixes]).tolist()
        kept = [
            start + end - member.perturbation.start
            for start, member in zip(starts, batch.members, strict=False)
            for end in member.logit_fn.ends
        ]
        cleans = list(prefix_lengths)
        queries, prefix = _suffix_columns(batch.members, cleans), _prefix_columns(list(prefix_lengths.values()))
        rows, prefixes = torch.cat(suffixes, dim=1), list(prefix_lengths.items())
        size = block_size(starts[-1], len(prefix.position) + starts[-1], rows.device)
        if size < starts[-1] and not batch.needs_gradient:
            return _blockwise_forward(model, rows, queries, prefix, kept, prefix_cache(prefixes, starts[-1]), size)
        if size < starts[-1] and not len(prefix.position):
            return FULL.logits(model, batch, embeds)  # a gradient needs all at once, and a whole row needs no mask
        return _masked_forward(model, rows, queries, prefix, kept, prefix_cache(prefixes))


def longest_prefixes(members: Sequence[PerturbedRows]) -> dict[CleanRun, int]:
    """The clean runs whose keys these rows reuse, and how many positions of each."""
    lengths: dict[CleanRun, int] = {}
    for member in members:
        source = member.clean.source
        lengths[source] = max(member.perturbation.start, lengths.get(source, 0))
    return lengths


Layout = Full | Packed
FULL = Full()
LAYOUTS: dict[LayoutName, Layout] = {"full": FULL, "packed": Packed()}
MASK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 25}
"""The most elements of a mask. Longer rows run in blocks, so that no mask has the square of a long prompt."""


def block_size(tokens: int, keys: int, device: torch.device) -> int:
    """How many of a row's tokens run at a time: all of them, if their mask over the keys is small enough."""
    return min(tokens, max(1, MASK_ELEMENTS.get(device.type, MASK_ELEMENTS["cuda"]) // keys))


def layout_of(rows: PerturbedRows) -> Layout:
    """The layout that was chosen when the prompt had its clean run."""
    return LAYOUTS[rows.clean.layout]


def _after_span(batch: Batch) -> list[Tensor]:
    """The clean embeddings behind each member's perturbed span."""
    return [member.clean.embeds[member.perturbation.start + member.perturbation.span :] for member in batch.members]


def _row(*parts: Tensor) -> Float[Tensor, "rows length dim"]:
    """The parts one after the other. A part without a row dimension is the same in every row."""
    rows = max(len(part) for part in parts if part.dim() == 3)
    return torch.cat([part if part.dim() == 3 else part.expand(rows, -1, -1) for part in parts], dim=1)


def run_prompt(
    model: Any, embeds: Float[Tensor, "seq dim"], ends: Sequence[int]
) -> tuple[Float[Tensor, "kept vocab"], DynamicCache | None]:
    """Run one whole prompt. Returns the logits at its ends, and its cache if rows can reuse it.

    The model gets a copy: some scale what they are given in place.
    """
    cache, seq = new_cache(model), len(embeds)
    options = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
    logits = call_model(model, inputs_embeds=embeds[None].clone(), logits_to_keep=seq - ends[0], **options).logits[0].to(embeds.device)
    return logits[[end - seq for end in ends]], cache


def run_packed_prompts(
    model: Any, embeds: Sequence[Float[Tensor, "_ dim"]], ends: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "kept vocab"], DynamicCache]:
    """Run several whole prompts in one sequence, each of which sees only itself.

    Returns the logits at each prompt's ends, and the cache of all prompts together.
    """
    lengths = [len(tensor) for tensor in embeds]
    index = np.repeat(np.arange(len(lengths)), lengths)
    queries = _Columns(prompt=index, position=_ranges(lengths), first=np.zeros(sum(lengths), dtype=int), row=index)
    cache = DynamicCache()
    starts = np.cumsum([0, *lengths]).tolist()
    kept = [start + end for start, own_ends in zip(starts, ends, strict=False) for end in own_ends]
    return _masked_forward(model, torch.cat(list(embeds))[None], queries, None, kept, cache)[0], cache


@dataclass(frozen=True)
class _Columns:
    """What each column of the attention matrix stands for."""

    prompt: Int[np.ndarray, " columns"]
    """The index of its prompt."""
    position: Int[np.ndarray, " columns"]
    """Its position in that prompt."""
    first: Int[np.ndarray, " columns"]
    """The first position of its suffix: before it the clean prefix is visible."""
    row: Int[np.ndarray, " columns"]
    """The index of its member; -1 in a prefix."""

    def __getitem__(self, columns: slice) -> "_Columns":
        return _Columns(self.prompt[columns], self.position[columns], self.first[columns], self.row[columns])


def _prefix_columns(lengths: Sequence[int]) -> _Columns:
    total = sum(lengths)
    prompt = np.repeat(np.arange(len(lengths)), lengths)
    return _Columns(prompt, _ranges(lengths), np.zeros(total, dtype=int), np.full(total, -1))


def _suffix_columns(members: Sequence[PerturbedRows], cleans: Sequence[CleanRun]) -> _Columns:
    index_of = {clean: index for index, clean in enumerate(cleans)}
    starts = np.array([member.perturbation.start for member in members])
    lengths = np.array([len(member.clean.prompt) for member in members]) - starts
    return _Columns(
        prompt=np.repeat([index_of[member.clean.source] for member in members], lengths),
        position=np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)]),
        first=np.repeat(starts, lengths),
        row=np.repeat(np.arange(len(members)), lengths),
    )


def _ranges(lengths: Sequence[int]) -> Int[np.ndarray, " columns"]:
    return np.concatenate([np.arange(length) for length in lengths])


def _visible(queries: _Columns, own: _Columns, prefix: _Columns | None) -> Bool[np.ndarray, "queries keys"]:
    """A query sees its prompt's clean positions before its suffix, and its own suffix up to itself."""
    suffix = (queries.row[:, None] == own.row) & (own.position <= queries.position[:, None])
    if prefix is None:
        return suffix
    before = (queries.prompt[:, None] == prefix.prompt) & (prefix.position < queries.first[:, None])
    return np.concatenate([before, suffix], axis=1)


def _masked_forward(
    model: Any, rows: Tensor, queries: _Columns, prefix: _Columns | None, kept: list[int], cache: Any, own: _Columns | None = None
) -> Float[Tensor, "rows kept vocab"]:
    """own: the columns of the rows that these queries may see; None: the queries themselves."""
    own = queries if own is None else own
    visible = _visible(queries, own, prefix)
    key_position = own.position if prefix is None else np.concatenate([prefix.position, own.position])
    return call_model(
        model,
        inputs_embeds=rows,
        attention_mask=_masks(model.config.get_text_config(), visible, queries.position, key_position, rows),
        position_ids=torch.from_numpy(queries.position).to(rows.device).expand(len(rows), -1),
        past_key_values=cache,
        use_cache=True,
        # A list with accelerate: it would move a tensor to the first device, and the last layer's states are on another.
        logits_to_keep=kept if has_accelerate_hook(model) else torch.tensor(kept, device=rows.device),
    ).logits.to(rows.device)


def _blockwise_forward(
    model: Any, rows: Tensor, queries: _Columns, prefix: _Columns, kept: list[int], cache: Any, size: int
) -> Float[Tensor, "rows kept vocab"]:
    """The same, `size` tokens of the rows at a time. A block sees the prefix, the blocks before it and itself, and nothing that comes
    later is computed for it. `cache` keeps what the blocks leave."""
    found: dict[int, Tensor] = {}
    for start in range(0, rows.shape[1], size):
        stop = min(start + size, rows.shape[1])
        here = [end - start for end in kept if start <= end < stop]
        block = rows[:, start:stop]
        logits = _masked_forward(model, block, queries[start:stop], prefix, here or [stop - start - 1], cache, queries[:stop])
        found |= {start + end: logits[:, index] for index, end in enumerate(here)}
    return torch.stack([found[end] for end in kept], dim=1)


WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Types of layers whose attention is shorter than the prompt, and the configuration's name for how far it reaches."""


def exceeds_window(config: Any, seq: int) -> bool:
    """Whether the window or chunk of some layer is shorter than a prompt of `seq` tokens."""
    return any(seq > reach for reach in _windows(config).values())


def _windows(config: Any) -> dict[str, int]:
    """How many tokens each type of layer reaches over. Without types, a window is that of all layers."""
    types = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    reaches = {kind: getattr(config, name, None) for kind, name in WINDOWS.items() if kind in types}
    return {kind: reach for kind, reach in reaches.items() if isinstance(reach, int) and reach > 0}


def _masks(config: Any, visible: np.ndarray, queries: np.ndarray, keys: np.ndarray, rows: Tensor) -> Any:
    """One additive mask. If layers differ in their windows, one mask for each type of layer, as transformers takes them."""
    plain = _additive(visible, rows)
    if not exceeds_window(config, int(queries.max()) + 1):
        return plain
    types, masks = set(getattr(config, "layer_types", None) or ()), {}
    for kind, reach in _windows(config).items():
        near = queries[:, None] - keys < reach if kind == "sliding_attention" else queries[:, None] // reach == keys // reach
        masks[kind] = _additive(visible & near, rows)
    if len(types | set(masks)) == 1 and "chunked_attention" not in masks:
        return masks.popitem()[1]
    return dict.fromkeys(types, plain) | masks


def _additive(visible: np.ndarray, rows: Tensor) -> Float[Tensor, "rows 1 queries keys"]:
    """One mask for all rows. It is kept once, and some models (XGLM) want it to have as many rows as the batch."""
    mask = torch.zeros(visible.shape, dtype=rows.dtype, device=rows.device)
    return mask.masked_fill_(torch.from_numpy(~visible).to(rows.device), torch.finfo(rows.dtype).min).expand(len(rows), 1, -1, -1)
