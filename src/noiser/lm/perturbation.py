"""The engine's types: perturbed rows of a clean prompt, and the readouts of these rows."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from noiser.lm.kv_cache import CleanRun
from noiser.lm.quantity import LogitFn


@dataclass(frozen=True, eq=False)
class _Noise:
    """One row for each noise vector."""

    start: int
    """The first position that changes."""
    noise: Float[Tensor, "rows span dim"]
    """The computation is in this dtype (float64 in the official variant). Its result is cast to the model's dtype."""

    @property
    def rows(self) -> int:
        """The number of perturbed versions of the prompt."""
        return len(self.noise)

    @property
    def span(self) -> int:
        """The number of positions that may change."""
        return self.noise.shape[1]


@dataclass(frozen=True, eq=False)
class AddNoise(_Noise):
    """Replace the embeddings x by `x + scale * noise[j]`, one row for each j."""

    scale: float

    def apply(self, embeds: Float[Tensor, "span dim"], rows: range) -> Float[Tensor, "_ span dim"]:
        """The perturbed embeddings of these rows."""
        noise = self.noise[rows.start : rows.stop]
        return (embeds.to(noise) + self.scale * noise).to(embeds)


@dataclass(frozen=True, eq=False)
class ReplaceByNoise(_Noise):
    """Replace the chosen embeddings x by `scale * RMS(x) * noise[j]`: nothing is left of x but its size. One row for each j."""

    chosen: Bool[Tensor, " span"]
    """The positions that are replaced. The others keep their embeddings."""
    scale: float = 1.0

    def apply(self, embeds: Float[Tensor, "span dim"], rows: range) -> Float[Tensor, "_ span dim"]:
        """The perturbed embeddings of these rows."""
        noise = self.noise[rows.start : rows.stop]
        sizes = embeds.to(noise).square().mean(-1, keepdim=True).sqrt()
        return torch.where(self.chosen.to(embeds.device)[:, None], (self.scale * sizes * noise).to(embeds), embeds)


@dataclass(frozen=True, eq=False)
class Interpolate:
    """Replace the embeddings x by `baseline + share * (x - baseline)`, with one share for each row and position.

    A share of 1 keeps the token; a share of 0 replaces it by the baseline.
    """

    start: int
    """The first position that changes."""
    share: Float[Tensor, "rows span"]
    baseline: Float[Tensor, "span dim"] | None = None
    """None: zeros."""

    @property
    def rows(self) -> int:
        """The number of perturbed versions of the prompt."""
        return len(self.share)

    @property
    def span(self) -> int:
        """The number of positions that may change."""
        return self.share.shape[1]

    def apply(self, embeds: Float[Tensor, "span dim"], rows: range) -> Float[Tensor, "_ span dim"]:
        """The perturbed embeddings of these rows."""
        share = self.share[rows.start : rows.stop].to(embeds.device)[..., None]
        wide = embeds.to(share.dtype)
        if self.baseline is None:
            return (wide * share).to(embeds)
        return torch.lerp(self.baseline.to(wide).expand_as(wide), wide, share).to(embeds)


@dataclass(frozen=True, eq=False)
class MaskElements:
    """Set single elements of the embeddings to zero.

    An element is kept where its draw is below its token's share. With `inside=False` it is kept where its draw is not
    below: the two settings are exact complements.
    """

    start: int
    """The first position that changes."""
    draws: Float[Tensor, "rows span dim"]
    """Uniform in [0, 1)."""
    share: Float[Tensor, "rows span"]
    """With `inside`: 0 or less keeps nothing, 1 or more keeps everything."""
    inside: bool = True

    @property
    def rows(self) -> int:
        """The number of perturbed versions of the prompt."""
        return len(self.share)

    @property
    def span(self) -> int:
        """The number of positions that may change."""
        return self.share.shape[1]

    def apply(self, embeds: Float[Tensor, "span dim"], rows: range) -> Float[Tensor, "_ span dim"]:
        """The perturbed embeddings of these rows."""
        draws, share = (tensor[rows.start : rows.stop].to(embeds.device) for tensor in (self.draws, self.share))
        return embeds * ((draws < share[..., None]) == self.inside)


Perturbation = AddNoise | ReplaceByNoise | Interpolate | MaskElements


ModelContext = Callable[[Any], AbstractContextManager[None]]
"""A context manager that takes the model and wraps the forward pass of all rows together. It must restore the model."""


@dataclass(frozen=True, eq=False)
class PerturbedRows:
    """Perturbed versions of one clean prompt, and the number to read from each."""

    clean: CleanRun
    perturbation: Perturbation
    logit_fn: LogitFn
    base: int | None = None
    """The token whose mean probability is compared with that of its best rival, at the logit function's first end. None:
    no comparison."""
    anchor: bool = False
    """Add one unperturbed row. It shares the rounding of the others, so a difference to it is exact to the last bits, and a
    perturbation that the model ignores gives a difference of exactly 0."""
    weights: tuple[float, ...] | None = None
    """One weight for each row. If given, the gradient of the weighted sum with respect to the perturbed embeddings is
    computed."""
    row_gradients: bool = False
    """Whether each row's own part of that gradient is kept too."""
    model_context: ModelContext | None = None

    @property
    def draws(self) -> int:
        """The number of perturbed rows."""
        return self.perturbation.rows

    @property
    def rows(self) -> int:
        """The number of rows that run; the anchor is the last."""
        return self.draws + self.anchor

    def embeds(self, rows: range) -> Float[Tensor, "_ span dim"]:
        """The embeddings of the perturbed span in these rows."""
        start, span = self.perturbation.start, self.perturbation.span
        clean = self.clean.embeds[start : start + span]
        if rows.stop <= self.draws:
            return self.perturbation.apply(clean, rows)
        if rows.start >= self.draws:
            return clean[None]
        return torch.cat([self.perturbation.apply(clean, range(rows.start, self.draws)), clean[None]])


@dataclass(frozen=True, eq=False)
class Readout:
    """The numbers that are kept of some perturbed rows."""

    values: tuple[float, ...] = ()
    """The logit function's value in each perturbed row."""
    anchor: float | None = None
    """Its value in the unperturbed row. None without an anchor."""
    base: float = 0.0
    """Mean probability of the base token over the perturbed rows."""
    rival: float = 0.0
    """The highest mean probability of any other token."""
    rival_id: int = 0
    gradient: Float[Tensor, "span dim"] | None = None
    """Weighted sum over the rows of the gradient with respect to each row's perturbed embeddings, float32."""
    row_gradients: Float[Tensor, "rows span dim"] | None = None
    """The parts of that sum. None unless requested."""
    fault: str = ""
    """Empty if the numbers are valid. `nonfinite`: a logit was NaN or infinite. `oom`: one row did not fit into memory."""
    forward_tokens: int = 0
    """Tokens that went through the model for these rows."""
    backward_tokens: int = 0

    @property
    def value(self) -> float:
        """The mean value over the perturbed rows."""
        return sum(self.values) / len(self.values)

    @property
    def margin(self) -> float:
        """Base minus rival. It is negative after the prediction has flipped."""
        return self.base - self.rival

    def flips(self, prediction: int) -> bool:
        """Whether another token is now the argmax. A tie goes to the lowest id."""
        return self.margin < 0 or (self.margin == 0 and self.rival_id < prediction)


@dataclass(frozen=True, eq=False)
class Batch:
    """Several `PerturbedRows` that go through the model together, with the same range of rows of each."""

    members: tuple[PerturbedRows, ...]
    indices: tuple[int, ...]
    """The index of each member in the caller's list."""
    rows: range
    """Which rows of each member."""

    def halves(self) -> tuple["Batch", "Batch"] | None:
        """The same work in two batches: half of the members each, or half of the rows of a single member. None if it cannot
        be split."""
        if len(self.members) > 1:
            middle = len(self.members) // 2
            return (
                Batch(self.members[:middle], self.indices[:middle], self.rows),
                Batch(self.members[middle:], self.indices[middle:], self.rows),
            )
        if len(self.rows) > 1 and next(iter(self.members)).model_context is None:
            middle = len(self.rows) // 2
            return Batch(self.members, self.indices, self.rows[:middle]), Batch(self.members, self.indices, self.rows[middle:])
        return None

    @property
    def draws(self) -> int:
        """The number of perturbed rows of each member in this batch, without the anchor."""
        return max(0, min(self.rows.stop, self.members[0].draws) - self.rows.start)

    @property
    def needs_gradient(self) -> bool:
        """Whether gradients are computed."""
        return self.members[0].weights is not None

    def embeds(self) -> list[Float[Tensor, "_ _ dim"]]:
        """The embeddings of each member's perturbed span in these rows."""
        return [member.embeds(self.rows) for member in self.members]

    def offsets(self) -> list[int]:
        """The index of each member's first end among all kept logits, and their total number at the end."""
        return [0, *accumulate(len(member.logit_fn.ends) for member in self.members)]
