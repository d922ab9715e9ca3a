"""Group perturbed rows into batches that fit the budget, run a batch, and collect the readouts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from noiser.lm.devices import Budget
from noiser.lm.forward import layout_of
from noiser.lm.kv_cache import CleanRun
from noiser.lm.perturbation import Batch, PerturbedRows, Readout
from noiser.lm.quantity import check_differentiable, to_float64

Capacity = Callable[[int, int], int]
"""Callable(seq, wanted): the longest packing in tokens for prompts of `seq` tokens, see `LayoutCheck.capacity`."""


def batches(perturbed: Sequence[PerturbedRows], budget_of: Callable[[PerturbedRows], Budget], capacity: Capacity) -> Iterator[Batch]:
    """All rows in as few batches as the budget allows. The budget is read again for each batch, as it may shrink."""
    kinds = [_kind(rows) for rows in perturbed]
    group: list[int] = []
    length = kept = 0
    packing = _Packing(capacity)
    for index in sorted(range(len(perturbed)), key=kinds.__getitem__):
        rows, layout = perturbed[index], layout_of(perturbed[index])
        budget, tokens, ends = budget_of(rows), layout.tokens(rows), len(rows.logit_fn.ends)
        full = (
            rows.rows * (length + tokens) > budget.tokens
            or rows.rows * (kept + ends) > budget.rows
            or (layout.packs and (length + tokens > budget.length or not packing.takes(rows, length + tokens)))
        )
        if group and (full or kinds[group[0]] != kinds[index]):
            yield from _split_rows(perturbed, group, length, kept, budget_of(perturbed[group[0]]))
            group, length, kept = [], 0, 0
            packing = _Packing(capacity)
        group.append(index)
        packing.add(rows)
        length, kept = length + tokens, kept + ends
    if group:
        yield from _split_rows(perturbed, group, length, kept, budget_of(perturbed[group[0]]))


@dataclass
class _Packing:
    """The prefixes that the rows of one batch share, and whether more rows fit behind them."""

    capacity: Capacity
    longest: int = 0
    """Tokens of the longest prompt."""
    prefixes: dict[CleanRun, int] = field(default_factory=dict)

    def takes(self, rows: PerturbedRows, suffixes: int) -> bool:
        """Whether a packing with these rows, whose suffixes then have so many tokens, is right."""
        longest = max(self.longest, len(rows.clean.prompt))
        before = self.prefixes.get(rows.clean.source, 0)
        keys = sum(self.prefixes.values()) + max(0, rows.perturbation.start - before) + suffixes
        return keys <= self.capacity(longest, keys)

    def add(self, rows: PerturbedRows) -> None:
        source = rows.clean.source
        self.longest = max(self.longest, len(rows.clean.prompt))
        self.prefixes[source] = max(rows.perturbation.start, self.prefixes.get(source, 0))


def _kind(rows: PerturbedRows) -> tuple[Any, ...]:
    """Only rows of equal kind may share a batch."""
    layout = layout_of(rows)
    wanted = rows.weights is not None, rows.base is not None, id(rows.model_context)
    return layout.name, *wanted, rows.draws, rows.rows, layout.kind(rows)


def _split_rows(perturbed: Sequence[PerturbedRows], group: list[int], length: int, kept: int, budget: Budget) -> Iterator[Batch]:
    """The group with all its rows in one batch. A single member that is too large runs a few rows at a time."""
    members = tuple(perturbed[index] for index in group)
    rows = members[0].rows
    whole = len(group) > 1 or members[0].model_context is not None
    size = rows if whole else max(1, min(rows, budget.tokens // length, budget.rows // kept))
    for start in range(0, rows, size):
        yield Batch(members, tuple(group), range(start, min(start + size, rows)))


@dataclass
class BatchSums:
    """The result of one batch, for each of its members. Results of the same members' further rows can be added."""

    values: list[list[float]]
    """In each perturbed row of this batch."""
    anchors: list[float | None]
    finite: Bool[Tensor, " members"]
    total: Float[Tensor, "members vocab"] | None
    """The sum of the perturbed rows' distributions at the first end. None if no rivals are wanted."""
    gradients: list[Tensor] | None
    rows: int
    forward: list[int]
    backward: list[int] = field(default_factory=list)
    row_gradients: list[Tensor | None] = field(default_factory=list)
    """The gradients of the single rows, of the members that keep them."""

    def __add__(self, other: "BatchSums") -> "BatchSums":
        total = None if self.total is None or other.total is None else self.total + other.total
        gradients = self.gradients and other.gradients and [a + b for a, b in zip(self.gradients, other.gradients, strict=True)]
        return BatchSums(
            values=[a + b for a, b in zip(self.values, other.values, strict=True)],
            anchors=[a if b is None else b for a, b in zip(self.anchors, other.anchors, strict=True)],
            finite=self.finite & other.finite,
            total=total,
            gradients=gradients,
            rows=self.rows + other.rows,
            forward=[a + b for a, b in zip(self.forward, other.forward, strict=True)],
            backward=[a + b for a, b in zip(self.backward, other.backward, strict=True)],
            row_gradients=[
                None if a is None or b is None else torch.cat([a, b]) for a, b in zip(self.row_gradients, other.row_gradients, strict=True)
            ],
        )


def run_batch(model: Any, batch: Batch) -> BatchSums:
    """One forward pass, and a backward pass if gradients are needed. Softmax in float32, sums in float64."""
    layout = layout_of(batch.members[0])
    embeds = [span.detach().requires_grad_(batch.needs_gradient) for span in batch.embeds()]
    context = batch.members[0].model_context
    with context(model) if context else nullcontext(), torch.set_grad_enabled(batch.needs_gradient):
        logits = layout.logits(model, batch, embeds)
        values = _values(batch, logits)
        row_gradients: list[Tensor | None] = [None] * len(embeds)
        gradients = None
        if batch.needs_gradient:
            gradients, row_gradients = _gradients(batch, values, embeds)
    tokens = [layout.tokens(member) * len(batch.rows) for member in batch.members]
    by_member = values.detach().T.tolist()
    return BatchSums(
        values=[row[: batch.draws] for row in by_member],
        anchors=[row[-1] if batch.draws < len(batch.rows) else None for row in by_member],
        finite=_finite(batch, logits, gradients),
        total=_total_probs(batch, logits.detach()) if batch.members[0].base is not None else None,
        gradients=gradients,
        rows=len(batch.rows),
        forward=tokens,
        backward=tokens if batch.needs_gradient else [0] * len(tokens),
        row_gradients=row_gradients,
    )


def _values(batch: Batch, logits: Float[Tensor, "rows kept vocab"]) -> Float[Tensor, "rows members"]:
    """Each member's value in each row. Members with the same logit function are evaluated in one call."""
    offsets, columns = batch.offsets(), [torch.empty(0)] * len(batch.members)
    by_function: dict[int, list[int]] = {}
    for index, member in enumerate(batch.members):
        by_function.setdefault(id(member.logit_fn), []).append(index)
    for indices in by_function.values():
        logit_fn = batch.members[indices[0]].logit_fn
        ends = [end for index in indices for end in range(offsets[index], offsets[index + 1])]
        selected = logits if len(ends) == logits.shape[1] else logits[:, ends]
        stacked = selected.unflatten(1, (len(indices), -1)).flatten(0, 1)
        values = logit_fn.function(stacked).unflatten(0, (len(logits), len(indices)))
        for index, column in zip(indices, values.unbind(1), strict=True):
            columns[index] = column
    return torch.stack(columns, dim=1)


def _gradients(batch: Batch, values: Float[Tensor, "rows members"], embeds: list[Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
    """The weighted sum of each member's gradients [span, dim], and their parts [rows, span, dim] for a member that keeps them."""
    weights = [(member.weights or ())[batch.rows.start : batch.rows.stop] for member in batch.members]
    total = (values * torch.tensor(weights, dtype=values.dtype, device=values.device).T).sum()
    check_differentiable(total)
    gradients = torch.autograd.grad(total, embeds, allow_unused=True)
    sums, parts = [], []
    for member, e, g in zip(batch.members, embeds, gradients, strict=True):
        sums.append(torch.zeros_like(e[0]).float() if g is None else g.float().sum(0))
        parts.append((torch.zeros_like(e) if g is None else g).float() if member.row_gradients else None)
    return sums, parts


def _finite(batch: Batch, logits: Float[Tensor, "rows kept vocab"], gradients: list[Tensor] | None) -> Bool[Tensor, " members"]:
    """Whether each member's logits, and its gradient if there is one, are all finite."""
    finite = torch.isfinite(logits).all(-1).all(0)
    by_member = torch.stack([finite[first:last].all() for first, last in pairwise(batch.offsets())])
    if gradients is not None:
        by_member &= torch.stack([gradient.isfinite().all() for gradient in gradients])
    return by_member


def _total_probs(batch: Batch, logits: Float[Tensor, "rows kept vocab"]) -> Float[Tensor, "members vocab"]:
    first_ends = batch.offsets()[:-1]
    selected = logits if len(first_ends) == logits.shape[1] else logits[:, first_ends]
    probs = selected[: batch.draws].float().softmax(-1)
    return probs.sum(0, dtype=to_float64(probs[:0]).dtype)


class Collector:
    """Puts readouts in the caller's order, and adds up members whose rows were split over several batches."""

    def __init__(self, count: int) -> None:
        self._readouts: list[Readout | None] = [None] * count
        self._partial: dict[int, BatchSums] = {}

    def add(self, batch: Batch, sums: BatchSums) -> None:
        """Take the result of one batch. A member's readout is made when its last row is in."""
        rows = batch.members[0].rows
        if sums.rows < rows:
            index = batch.indices[0]
            sums = self._partial.pop(index) + sums if index in self._partial else sums
            if sums.rows < rows:
                self._partial[index] = sums
                return
        for index, readout in zip(batch.indices, _readouts(sums, batch), strict=True):
            self._readouts[index] = self._readouts[index] or readout

    def fail(self, batch: Batch, fault: str) -> None:
        """Record that the members of this batch could not be run."""
        for index in batch.indices:
            self._readouts[index] = Readout(fault=fault)
            self._partial.pop(index, None)

    def readouts(self) -> list[Readout]:
        """All readouts. Asserts that none is missing."""
        missing = [index for index, readout in enumerate(self._readouts) if readout is None]
        assert not missing, f"rows {missing} have no readout"
        return [readout for readout in self._readouts if readout is not None]


def _readouts(sums: BatchSums, batch: Batch) -> Iterator[Readout]:
    """Reduce the rows of each member to a few numbers."""
    rivals = _rivals(sums.total, batch) if sums.total is not None else [(0.0, 0.0, 0)] * len(batch.members)
    gradients = sums.gradients or [None] * len(batch.members)
    columns = (sums.values, sums.anchors, rivals, gradients, sums.row_gradients, sums.finite.tolist(), sums.forward, sums.backward)
    for values, anchor, (base, rival, rival_id), gradient, by_row, finite, forward, backward in zip(*columns, strict=True):
        fault = "" if finite else "nonfinite"
        yield Readout(tuple(values), anchor, base, rival, rival_id, gradient, by_row, fault, forward, backward)


def _rivals(total: Float[Tensor, "members vocab"], batch: Batch) -> list[tuple[float, float, int]]:
    """For each member: the base token's mean probability, that of its best rival, and the rival's id."""
    mean = total / batch.members[0].draws
    base = torch.tensor([member.base for member in batch.members], device=mean.device)[:, None]
    rival, rival_id = mean.scatter(1, base, -1.0).max(dim=-1)
    return list(zip(mean.gather(1, base)[:, 0].tolist(), rival.tolist(), rival_id.tolist(), strict=True))
