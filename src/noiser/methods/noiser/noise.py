"""Scales of the noise that need no search, and the noise itself."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiser.rng import generator


class Noise:
    """`draws(offset)` are the vectors for a piece's token number `offset`; a piece's first token has those that it has alone."""

    def __init__(self, units: Sequence[tuple[int, ...]], draws: Callable[[int], Float[Tensor, "samples dim"]]) -> None:
        self.units = units
        """The positions of each piece's tokens."""
        widest = max(map(len, units))
        self._draws = torch.stack([draws(offset) for offset in range(widest)], dim=1)
        self._laid: dict[tuple[int, ...], Float[Tensor, "samples span dim"]] = {}

    def on(self, piece: int) -> Float[Tensor, "samples span dim"]:
        """The noise on a piece, from its first token to its last; 0 on tokens between that are not its own."""
        members = self.units[piece]
        places = tuple(token - members[0] for token in members)
        if places not in self._laid:
            laid = self._draws.new_zeros(len(self._draws), places[-1] + 1, self._draws.shape[2])
            laid[:, list(places)] = self._draws[:, : len(places)]
            self._laid[places] = laid
        return self._laid[places]


Norm = Literal["l1", "l2", "l3", "l4", "linf"]


def expected_norm(norm: str, dim: int) -> float:
    """E||n||_p of a standard normal vector of `dim` elements, the paper's approximations (appendix D)."""
    mean_abs = math.sqrt(2 / math.pi)
    return {
        "l1": dim * mean_abs,
        "l2": math.sqrt(dim),
        "l3": (2 * mean_abs * dim) ** (1 / 3),
        "l4": (3 * dim) ** (1 / 4),
        "linf": math.sqrt(2 * math.log(dim)),
    }[norm]


def released_norm(norm: Norm, dim: int) -> float:
    """What the released code divides its noise by: as above, but for the third moment it takes 4 / sqrt(pi)."""
    return (4 * dim / math.sqrt(math.pi)) ** (1 / 3) if norm == "l3" else expected_norm(norm, dim)


def paper_noise(samples: int, dim: int, seed: int, input_ids: tuple[int, ...], offset: int = 0) -> Tensor:
    """`samples` standard normal vectors, float32, named by the seed and the prompt, so that no other prompt matters.

    `offset` names further ones, for the further tokens of a unit that is disturbed as a whole.
    """
    drawn = generator(seed, input_ids, "noise", *([offset] if offset else [])).standard_normal((samples, dim), dtype=np.float32)
    return torch.from_numpy(drawn)


def released_noise(samples: int, dim: int, norm: Norm | None) -> Tensor:
    """The released code's noise: the same float64 vectors for every token, scale and prompt, divided by the norm if any."""
    drawn = np.random.RandomState(1).randn(samples, dim)
    return torch.from_numpy(drawn / released_norm(norm, dim) if norm else drawn)


def random_scale(seed: int, input_ids: tuple[int, ...]) -> float:
    """One k ~ U(0, 1) for a prompt."""
    return float(generator(seed, input_ids, "scale").random())
