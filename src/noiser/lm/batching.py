"""Probes into batches that fit the budget, and the sums of a batch into readings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from noiser.lm.layout import Layout
from noiser.lm.memory import Budget
from noiser.lm.probe import Batch, Probe, Reading


def batches(probes: Sequence[Probe], layout_of: Callable[[Probe], Layout], budget: Budget) -> Iterator[Batch]:
    """Every probe in as few batches as the budget allows. The budget is read anew for each, so it may shrink meanwhile."""

    def kind(number: int) -> tuple[str, int, int, int]:
        layout = layout_of(probes[number])
        return layout.name, probes[number].draws, probes[number].rows, layout.kind(probes[number])

    group: list[int] = []
    length = 0
    for number in sorted(range(len(probes)), key=kind):
        layout, rows = layout_of(probes[number]), probes[number].rows
        tokens = layout.tokens(probes[number])
        full = (
            rows * (length + tokens) > budget.tokens
            or rows * (len(group) + 1) > budget.rows
            or (layout.packs and length + tokens > budget.length)
        )
        if group and (full or kind(group[0]) != kind(number)):
            yield from _with_rows(probes, group, length, budget)
            group, length = [], 0
        group.append(number)
        length += tokens
    if group:
        yield from _with_rows(probes, group, length, budget)


def _with_rows(probes: Sequence[Probe], group: list[int], length: int, budget: Budget) -> Iterator[Batch]:
    """The group with all its rows at once; or, where a single probe is already too much, a few rows at a time."""
    chosen = tuple(probes[number] for number in group)
    rows = chosen[0].rows
    most = rows if len(group) > 1 else max(1, min(rows, budget.tokens // length, budget.rows))
    for start in range(0, rows, most):
        yield Batch(chosen, tuple(group), range(start, min(start + most, rows)))


@dataclass
class Sums:
    """What a batch leaves behind of each probe."""

    total: Float[Tensor, "probes vocab"]
    """The sum of the averaged rows' distributions."""
    anchor: Float[Tensor, "probes watched"]
    """The unedited row's probability of the watched tokens; 0 where that row is not in this batch."""
    finite: Bool[Tensor, " probes"]
    tokens: list[int]
    rows: int

    def __add__(self, other: "Sums") -> "Sums":
        tokens = [a + b for a, b in zip(self.tokens, other.tokens, strict=True)]
        return Sums(self.total + other.total, self.anchor + other.anchor, self.finite & other.finite, tokens, self.rows + other.rows)


def sum_rows(logits: Float[Tensor, "rows probes vocab"], batch: Batch, tokens: list[int]) -> Sums:
    """Softmax in float32, sums in float64 (float32 on Apple's GPU, which has no other)."""
    finite = torch.isfinite(logits).all(-1).all(0)
    probs = logits.float().softmax(-1)
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    averaged = max(0, batch.averaged)
    anchor = probs[averaged:].sum(0, dtype=dtype).gather(1, batch.watched(logits.device))
    return Sums(probs[:averaged].sum(0, dtype=dtype), anchor, finite, tokens, len(batch.rows))


class Collector:
    """Puts readings in the caller's order, adding up probes whose rows came in several batches."""

    def __init__(self, count: int) -> None:
        self._readings: list[Reading | None] = [None] * count
        self._partial: dict[int, Sums] = {}

    def add(self, batch: Batch, sums: Sums) -> None:
        """Take the sums of one batch; a probe is read when its last row is in."""
        wanted = batch.probes[0].rows
        if sums.rows < wanted:
            number = batch.numbers[0]
            sums = sums + self._partial.pop(number) if number in self._partial else sums
            if sums.rows < wanted:
                self._partial[number] = sums
                return
        for number, reading in zip(batch.numbers, _read(sums, batch), strict=True):
            self._readings[number] = self._readings[number] or reading

    def fail(self, batch: Batch, fault: str) -> None:
        """Note that these probes could not be run."""
        for number in batch.numbers:
            self._readings[number] = Reading((), (), 0.0, 0, fault, 0)
            self._partial.pop(number, None)

    def readings(self) -> list[Reading]:
        """All of them; an assertion where one is missing."""
        missing = [number for number, reading in enumerate(self._readings) if reading is None]
        assert not missing, f"probes {missing} were never read"
        return [reading for reading in self._readings if reading is not None]


def _read(sums: Sums, batch: Batch) -> list[Reading]:
    """Reduce each mean distribution to a few numbers."""
    mean = sums.total / batch.probes[0].draws
    ids = batch.watched(mean.device)
    watched = mean.gather(1, ids)
    rival, rival_id = mean.scatter(1, ids[:, :1], -1.0).max(dim=-1)
    columns = [column.tolist() for column in (watched, sums.anchor, rival, rival_id, sums.finite)]
    return [
        Reading(tuple(w[: len(probe.watch)]), tuple(a[: len(probe.watch)]) if probe.anchor else (), r, i, "" if finite else "nonfinite", n)
        for probe, w, a, r, i, finite, n in zip(batch.probes, *columns, sums.tokens, strict=True)
    ]
