"""Probes into batches that fit the budget, and batches into readings."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from noiser.lm.devices import Budget
from noiser.lm.forward import Layout
from noiser.lm.perturbation import Batch, PerturbedRows, Readout
from noiser.lm.quantity import check_slope, wide


def batches(
    probes: Sequence[PerturbedRows], layout_of: Callable[[PerturbedRows], Layout], budget_of: Callable[[PerturbedRows], Budget]
) -> Iterator[Batch]:
    """Every probe in as few batches as the budget allows. The budget is read anew for each, so it may shrink meanwhile."""

    def kind(number: int) -> tuple[Any, ...]:
        layout, probe = layout_of(probes[number]), probes[number]
        asked = probe.weights is not None, probe.base is not None, id(probe.within)
        return layout.name, *asked, probe.draws, probe.rows, layout.kind(probe)

    group: list[int] = []
    length = kept = 0
    for number in sorted(range(len(probes)), key=kind):
        probe, layout = probes[number], layout_of(probes[number])
        limits, tokens, ends = budget_of(probe), layout.tokens(probe), len(probe.logit_fn.ends)
        full = (
            probe.rows * (length + tokens) > limits.tokens
            or probe.rows * (kept + ends) > limits.rows
            or (layout.packs and length + tokens > limits.length)
        )
        if group and (full or kind(group[0]) != kind(number)):
            yield from _with_rows(probes, group, length, kept, budget_of(probes[group[0]]))
            group, length, kept = [], 0, 0
        group.append(number)
        length, kept = length + tokens, kept + ends
    if group:
        yield from _with_rows(probes, group, length, kept, budget_of(probes[group[0]]))


def _with_rows(probes: Sequence[PerturbedRows], group: list[int], length: int, kept: int, budget: Budget) -> Iterator[Batch]:
    """The group with all its rows at once; or, where a single probe is already too much, a few rows at a time."""
    chosen = tuple(probes[number] for number in group)
    rows = chosen[0].rows
    whole = len(group) > 1 or chosen[0].within is not None
    most = rows if whole else max(1, min(rows, budget.tokens // length, budget.rows // kept))
    for start in range(0, rows, most):
        yield Batch(chosen, tuple(group), range(start, min(start + most, rows)))


@dataclass
class Sums:
    """What a batch leaves behind of each of its probes."""

    values: list[list[float]]
    """Of the edited rows in this batch."""
    anchors: list[float | None]
    finite: Bool[Tensor, " probes"]
    total: Float[Tensor, "probes vocab"] | None
    """The sum of the edited rows' distributions at the first end; None where no rivals are wanted."""
    gradients: list[Tensor] | None
    rows: int
    forward: list[int]
    backward: list[int] = field(default_factory=list)

    def __add__(self, other: "Sums") -> "Sums":
        total = None if self.total is None or other.total is None else self.total + other.total
        gradients = self.gradients and other.gradients and [a + b for a, b in zip(self.gradients, other.gradients, strict=True)]
        return Sums(
            values=[a + b for a, b in zip(self.values, other.values, strict=True)],
            anchors=[a if b is None else b for a, b in zip(self.anchors, other.anchors, strict=True)],
            finite=self.finite & other.finite,
            total=total,
            gradients=gradients,
            rows=self.rows + other.rows,
            forward=[a + b for a, b in zip(self.forward, other.forward, strict=True)],
            backward=[a + b for a, b in zip(self.backward, other.backward, strict=True)],
        )


def run_batch(model: Any, layout: Layout, batch: Batch) -> Sums:
    """One forward pass, and a backward pass where gradients are wanted. Softmax in float32, sums in float64."""
    edited = [each.detach().requires_grad_(batch.gradient) for each in batch.edited()]
    within = batch.probes[0].within
    with within(model) if within else nullcontext(), torch.set_grad_enabled(batch.gradient):
        logits = layout.logits(model, batch, edited)
        values = _measured(batch, logits)
        gradients = _gradients(batch, values, edited) if batch.gradient else None
    finite = torch.isfinite(logits).all(-1).all(0)
    offsets = batch.offsets()
    healthy = torch.stack([finite[a:b].all() for a, b in pairwise(offsets)])
    if gradients is not None:
        healthy &= torch.stack([gradient.isfinite().all() for gradient in gradients])
    numbers = values.detach().T.tolist()
    tokens = [layout.tokens(probe) * len(batch.rows) for probe in batch.probes]
    return Sums(
        values=[row[: batch.drawn] for row in numbers],
        anchors=[row[-1] if batch.drawn < len(batch.rows) else None for row in numbers],
        finite=healthy,
        total=_total(batch, logits.detach()) if batch.probes[0].base is not None else None,
        gradients=gradients,
        rows=len(batch.rows),
        forward=tokens,
        backward=tokens if batch.gradient else [0] * len(tokens),
    )


def _measured(batch: Batch, logits: Float[Tensor, "rows kept vocab"]) -> Float[Tensor, "rows probes"]:
    """Each probe's number in each row; probes with the same measure are measured together."""
    offsets, columns = batch.offsets(), [torch.empty(0)] * len(batch.probes)
    alike: dict[int, list[int]] = {}
    for place, probe in enumerate(batch.probes):
        alike.setdefault(id(probe.logit_fn), []).append(place)
    for places in alike.values():
        measure = batch.probes[places[0]].logit_fn
        mine = [column for place in places for column in range(offsets[place], offsets[place + 1])]
        own = logits if len(mine) == logits.shape[1] else logits[:, mine]
        found = measure.function(own.unflatten(1, (len(places), -1)).flatten(0, 1)).unflatten(0, (len(logits), len(places)))
        for place, column in zip(places, found.unbind(1), strict=True):
            columns[place] = column
    return torch.stack(columns, dim=1)


def _gradients(batch: Batch, values: Float[Tensor, "rows probes"], edited: list[Tensor]) -> list[Tensor]:
    weights = [(probe.weights or ())[batch.rows.start : batch.rows.stop] for probe in batch.probes]
    total = (values * torch.tensor(weights, dtype=values.dtype, device=values.device).T).sum()
    check_slope(total)
    found = torch.autograd.grad(total, edited, allow_unused=True)
    return [torch.zeros_like(e[0]).float() if g is None else g.float().sum(0) for e, g in zip(edited, found, strict=True)]


def _total(batch: Batch, logits: Float[Tensor, "rows kept vocab"]) -> Float[Tensor, "probes vocab"]:
    first = batch.offsets()[:-1]
    own = logits if len(first) == logits.shape[1] else logits[:, first]
    probs = own[: batch.drawn].float().softmax(-1)
    return probs.sum(0, dtype=wide(probs[:0]).dtype)


class Collector:
    """Puts readings in the caller's order, adding up probes whose rows came in several batches."""

    def __init__(self, count: int) -> None:
        self._readings: list[Readout | None] = [None] * count
        self._partial: dict[int, Sums] = {}

    def add(self, batch: Batch, sums: Sums) -> None:
        """Take what one batch left behind; a probe is read when its last row is in."""
        wanted = batch.probes[0].rows
        if sums.rows < wanted:
            number = batch.numbers[0]
            sums = self._partial.pop(number) + sums if number in self._partial else sums
            if sums.rows < wanted:
                self._partial[number] = sums
                return
        for number, reading in zip(batch.numbers, _read(sums, batch), strict=True):
            self._readings[number] = self._readings[number] or reading

    def fail(self, batch: Batch, fault: str) -> None:
        """Note that these probes could not be run."""
        for number in batch.numbers:
            self._readings[number] = Readout(fault=fault)
            self._partial.pop(number, None)

    def readings(self) -> list[Readout]:
        """All of them; an assertion where one is missing."""
        missing = [number for number, reading in enumerate(self._readings) if reading is None]
        assert not missing, f"probes {missing} were never read"
        return [reading for reading in self._readings if reading is not None]


def _read(sums: Sums, batch: Batch) -> Iterator[Readout]:
    """Reduce each probe's rows to a few numbers."""
    rivals = _rivals(sums.total, batch) if sums.total is not None else [(0.0, 0.0, 0)] * len(batch.probes)
    gradients = sums.gradients or [None] * len(batch.probes)
    columns = (sums.values, sums.anchors, rivals, gradients, sums.finite.tolist(), sums.forward, sums.backward)
    for values, anchor, (base, rival, rival_id), gradient, finite, forward, backward in zip(*columns, strict=True):
        yield Readout(tuple(values), anchor, base, rival, rival_id, gradient, "" if finite else "nonfinite", forward, backward)


def _rivals(total: Float[Tensor, "probes vocab"], batch: Batch) -> list[tuple[float, float, int]]:
    mean = total / batch.probes[0].draws
    base = torch.tensor([probe.base for probe in batch.probes], device=mean.device)[:, None]
    rival, rival_id = mean.scatter(1, base, -1.0).max(dim=-1)
    return list(zip(mean.gather(1, base)[:, 0].tolist(), rival.tolist(), rival_id.tolist(), strict=True))
