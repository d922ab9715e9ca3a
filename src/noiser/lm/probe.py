"""What one can ask of the engine: rows that each edit one position of a clean prompt, and what is read off them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from noiser.lm.prefix import Clean


@dataclass(frozen=True, eq=False)
class Probe:
    """Replace the embedding x of one position by `x + scale * shift[j]`, one row for each j, and average the rows' distributions."""

    clean: Clean
    position: int
    shift: Float[Tensor, "rows dim"]
    """The sum is taken in this dtype (float64 where the official variant wants it), then cast to the model's."""
    scale: float
    watch: tuple[int, ...]
    """Token ids whose probability is wanted; the first is the one that rivals are measured against."""
    anchor: bool = False
    """Run one unedited row along. It shares the others' rounding, so a difference to it is exact to the last bits, and an
    edit that the model ignores makes a difference of exactly 0."""

    @property
    def draws(self) -> int:
        """How many rows are averaged."""
        return len(self.shift)

    @property
    def rows(self) -> int:
        """How many rows run: the anchor comes last."""
        return self.draws + self.anchor


@dataclass(frozen=True)
class Reading:
    """What is kept of a probe: a few numbers of the mean distribution."""

    watched: tuple[float, ...]
    """Mean probability of each watched token."""
    anchor: tuple[float, ...]
    """The same on the unedited row; empty where none ran along."""
    rival: float
    """The highest mean probability of any token but the first watched one."""
    rival_id: int
    fault: str
    """Empty; or `nonfinite` where a logit was NaN or infinite, `oom` where one row did not fit: then the numbers mean nothing."""
    forward_tokens: int
    """Tokens that went through the model for this probe."""

    @property
    def margin(self) -> float:
        """First watched minus rival; below zero the prediction has flipped."""
        return self.watched[0] - self.rival

    def flips(self, prediction: int) -> bool:
        """Whether another token is now the argmax; among equals the lowest id counts as the argmax."""
        return self.margin < 0 or (self.margin == 0 and self.rival_id < prediction)


@dataclass(frozen=True, eq=False)
class Batch:
    """Probes that go through the model together, with the same draws of each."""

    probes: tuple[Probe, ...]
    numbers: tuple[int, ...]
    """The place of each probe in the caller's list."""
    rows: range
    """Which of each probe's rows."""

    def halves(self) -> tuple["Batch", "Batch"] | None:
        """The same work in two parts: of the probes, or of the rows where there is one probe; None for a single row."""
        if len(self.probes) > 1:
            middle = len(self.probes) // 2
            return (
                Batch(self.probes[:middle], self.numbers[:middle], self.rows),
                Batch(self.probes[middle:], self.numbers[middle:], self.rows),
            )
        if len(self.rows) > 1:
            middle = len(self.rows) // 2
            return Batch(self.probes, self.numbers, self.rows[:middle]), Batch(self.probes, self.numbers, self.rows[middle:])
        return None

    @property
    def averaged(self) -> int:
        """How many of the rows are draws; what is left is the anchor."""
        return min(self.rows.stop, self.probes[0].draws) - self.rows.start

    def watched(self, device: torch.device) -> Int[Tensor, "probes watched"]:
        """Each probe's watched ids, the shorter lists filled up with their first."""
        width = max(len(probe.watch) for probe in self.probes)
        return torch.tensor([probe.watch + probe.watch[:1] * (width - len(probe.watch)) for probe in self.probes], device=device)

    def edited(self) -> Float[Tensor, "rows probes dim"]:
        """The new embedding of each probe's position, in every row."""
        shifts = {id(probe.shift): probe.shift for probe in self.probes}
        places = {key: place for place, key in enumerate(shifts)}
        padded = torch.stack([torch.nn.functional.pad(shift, (0, 0, 0, 1)) for shift in shifts.values()])
        stacked = padded[:, self.rows.start : self.rows.stop]
        which = torch.tensor([places[id(probe.shift)] for probe in self.probes], device=stacked.device)
        scale = torch.tensor([probe.scale for probe in self.probes], dtype=stacked.dtype, device=stacked.device)
        clean = torch.stack([probe.clean.embeds[probe.position] for probe in self.probes])
        shifted = clean.to(stacked)[:, None] + scale[:, None, None] * stacked[which]
        return shifted.to(clean).transpose(0, 1)
