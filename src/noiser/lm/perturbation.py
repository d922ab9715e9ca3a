"""What one can ask of the engine: edited versions of a clean prompt, and what is read off them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from noiser.lm.kv_cache import CleanRun
from noiser.lm.quantity import LogitFn


@dataclass(frozen=True, eq=False)
class AddNoise:
    """Replace the embeddings x by `x + scale * shift[j]`, one row for each j."""

    start: int
    """The first position that changes."""
    shift: Float[Tensor, "rows span dim"]
    """The sum is taken in this dtype (float64 where the official variant wants it), then cast to the model's."""
    scale: float

    @property
    def rows(self) -> int:
        """How many versions of the prompt there are."""
        return len(self.shift)

    @property
    def span(self) -> int:
        """How many positions may change."""
        return self.shift.shape[1]

    def apply(self, embeds: Float[Tensor, "span dim"], rows: range) -> Float[Tensor, "_ span dim"]:
        """The new embeddings of those rows."""
        shift = self.shift[rows.start : rows.stop]
        return (embeds.to(shift) + self.scale * shift).to(embeds)


@dataclass(frozen=True, eq=False)
class Interpolate:
    """Replace the embeddings x by `baseline + share * (x - baseline)`, a share for each row and position: 1 leaves a token,
    0 puts the baseline in its place."""

    start: int
    """The first position that changes."""
    share: Float[Tensor, "rows span"]
    baseline: Float[Tensor, "span dim"] | None = None
    """None: zeros."""

    @property
    def rows(self) -> int:
        """How many versions of the prompt there are."""
        return len(self.share)

    @property
    def span(self) -> int:
        """How many positions may change."""
        return self.share.shape[1]

    def apply(self, embeds: Float[Tensor, "span dim"], rows: range) -> Float[Tensor, "_ span dim"]:
        """The new embeddings of those rows."""
        share = self.share[rows.start : rows.stop].to(embeds.device)[..., None]
        wide = embeds.to(share.dtype)
        if self.baseline is None:
            return (wide * share).to(embeds)
        return torch.lerp(self.baseline.to(wide).expand_as(wide), wide, share).to(embeds)


@dataclass(frozen=True, eq=False)
class MaskElements:
    """Set single elements of the embeddings to zero: each stays where its draw is below its token's share, or, `inside`
    being False, where it is not. The two are complements: what one keeps the other drops."""

    start: int
    """The first position that changes."""
    draws: Float[Tensor, "rows span dim"]
    """Uniform in [0, 1)."""
    share: Float[Tensor, "rows span"]
    """0 or less keeps nothing (inside), 1 or more everything."""
    inside: bool = True

    @property
    def rows(self) -> int:
        """How many versions of the prompt there are."""
        return len(self.share)

    @property
    def span(self) -> int:
        """How many positions may change."""
        return self.share.shape[1]

    def apply(self, embeds: Float[Tensor, "span dim"], rows: range) -> Float[Tensor, "_ span dim"]:
        """The new embeddings of those rows."""
        draws, share = (each[rows.start : rows.stop].to(embeds.device) for each in (self.draws, self.share))
        return embeds * ((draws < share[..., None]) == self.inside)


Perturbation = AddNoise | Interpolate | MaskElements


ModelContext = Callable[[Any], AbstractContextManager[None]]
"""Takes the model; what a probe's rows run in, all of them together. It leaves the model as it was."""


@dataclass(frozen=True, eq=False)
class PerturbedRows:
    """Rows of one clean sequence, each with its own edit, and the number to read off each."""

    clean: CleanRun
    perturbation: Perturbation
    logit_fn: LogitFn
    base: int | None = None
    """The token that rivals are measured against in the rows' mean distribution at the measure's first end; None: no rivals."""
    anchor: bool = False
    """Run one unedited row along. It shares the others' rounding, so a difference to it is exact to the last bits, and an
    edit that the model ignores makes a difference of exactly 0."""
    weights: tuple[float, ...] | None = None
    """Where given, one for each row, the gradient of the rows' weighted sum with respect to their edited embeddings is taken."""
    within: ModelContext | None = None

    @property
    def draws(self) -> int:
        """How many rows are edited."""
        return self.perturbation.rows

    @property
    def rows(self) -> int:
        """How many rows run: the anchor comes last."""
        return self.draws + self.anchor

    def edited(self, rows: range) -> Float[Tensor, "_ span dim"]:
        """The embeddings of the edited stretch in those rows."""
        embeds = self.clean.embeds[self.perturbation.start : self.perturbation.start + self.perturbation.span]
        if rows.stop <= self.draws:
            return self.perturbation.apply(embeds, rows)
        return (
            torch.cat([self.perturbation.apply(embeds, range(rows.start, self.draws)), embeds[None]])
            if rows.start < self.draws
            else embeds[None]
        )


@dataclass(frozen=True, eq=False)
class Readout:
    """What is kept of a probe: a few numbers."""

    values: tuple[float, ...] = ()
    """The measure of each edited row."""
    anchor: float | None = None
    """The measure of the unedited row; None where none ran along."""
    base: float = 0.0
    """Mean probability of the base token over the edited rows."""
    rival: float = 0.0
    """The highest mean probability of any other token."""
    rival_id: int = 0
    gradient: Float[Tensor, "span dim"] | None = None
    """Weighted sum over the rows of the gradient with respect to each row's edited embeddings, float32."""
    fault: str = ""
    """Empty; or `nonfinite` where a logit was NaN or infinite, `oom` where one row did not fit: then the numbers mean nothing."""
    forward_tokens: int = 0
    """Tokens that went through the model for this probe."""
    backward_tokens: int = 0

    @property
    def value(self) -> float:
        """The mean of the measure over the edited rows."""
        return sum(self.values) / len(self.values)

    @property
    def margin(self) -> float:
        """Base minus rival; below zero the prediction has flipped."""
        return self.base - self.rival

    def flips(self, prediction: int) -> bool:
        """Whether another token is now the argmax; among equals the lowest id counts as the argmax."""
        return self.margin < 0 or (self.margin == 0 and self.rival_id < prediction)


@dataclass(frozen=True, eq=False)
class Batch:
    """Probes that go through the model together, with the same draws of each."""

    probes: tuple[PerturbedRows, ...]
    numbers: tuple[int, ...]
    """The place of each probe in the caller's list."""
    rows: range
    """Which of each probe's rows."""

    def halves(self) -> tuple["Batch", "Batch"] | None:
        """The same work in two parts: of the probes, or of the rows where there is one probe; None where neither can be cut."""
        if len(self.probes) > 1:
            middle = len(self.probes) // 2
            return (
                Batch(self.probes[:middle], self.numbers[:middle], self.rows),
                Batch(self.probes[middle:], self.numbers[middle:], self.rows),
            )
        if len(self.rows) > 1 and next(iter(self.probes)).within is None:
            middle = len(self.rows) // 2
            return Batch(self.probes, self.numbers, self.rows[:middle]), Batch(self.probes, self.numbers, self.rows[middle:])
        return None

    @property
    def drawn(self) -> int:
        """How many of the rows are edited; what is left is the anchor."""
        return max(0, min(self.rows.stop, self.probes[0].draws) - self.rows.start)

    @property
    def gradient(self) -> bool:
        """Whether gradients are wanted."""
        return self.probes[0].weights is not None

    def edited(self) -> list[Float[Tensor, "_ _ dim"]]:
        """Each probe's edited stretch in these rows."""
        return [probe.edited(self.rows) for probe in self.probes]

    def offsets(self) -> list[int]:
        """Where each probe's ends begin among all kept logits; one more than there are probes."""
        return [0, *accumulate(len(probe.logit_fn.ends) for probe in self.probes)]
