"""How a probe changes its prompt: new embeddings for one stretch of positions, one set for each row."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Shift:
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

    def of(self, embeds: Float[Tensor, "span dim"], rows: range) -> Float[Tensor, "_ span dim"]:
        """The new embeddings of those rows."""
        shift = self.shift[rows.start : rows.stop]
        return (embeds.to(shift) + self.scale * shift).to(embeds)


@dataclass(frozen=True, eq=False)
class Fade:
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

    def of(self, embeds: Float[Tensor, "span dim"], rows: range) -> Float[Tensor, "_ span dim"]:
        """The new embeddings of those rows."""
        share = self.share[rows.start : rows.stop].to(embeds.device)[..., None]
        wide = embeds.to(share.dtype)
        if self.baseline is None:
            return (wide * share).to(embeds)
        return torch.lerp(self.baseline.to(wide).expand_as(wide), wide, share).to(embeds)


@dataclass(frozen=True, eq=False)
class Thin:
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

    def of(self, embeds: Float[Tensor, "span dim"], rows: range) -> Float[Tensor, "_ span dim"]:
        """The new embeddings of those rows."""
        draws, share = (each[rows.start : rows.stop].to(embeds.device) for each in (self.draws, self.share))
        return embeds * ((draws < share[..., None]) == self.inside)


Edit = Shift | Fade | Thin
