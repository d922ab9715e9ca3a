"""Noise vectors, and the noise scales that need no search."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiser.lm.perturbation import AddNoise, ReplaceByNoise
from noiser.rng import generator

Norm = Literal["l1", "l2", "l3", "l4", "linf"]


class Noise:
    """Noise for each unit of a prompt.

    `draws(offset)` gives the vectors of the token at `offset` in a unit. So the first token of a unit gets the same noise as
    it does alone. With `replace` the noise takes the place of the embeddings, otherwise it is added to them.
    """

    def __init__(
        self, units: Sequence[tuple[int, ...]], draws: Callable[[int], Float[Tensor, "samples dim"]], *, replace: bool = False
    ) -> None:
        self.units = units
        """The positions of each unit's tokens."""
        self._replace = replace
        widest = max(map(len, units))
        self._draws = torch.stack([draws(offset) for offset in range(widest)], dim=1)
        self._by_offsets: dict[tuple[int, ...], Float[Tensor, "samples span dim"]] = {}

    @property
    def draws(self) -> int:
        """The number of noise vectors for each unit."""
        return len(self._draws)

    def first(self, count: int) -> "Noise":
        """The same noise with its first vectors alone."""
        return Noise(self.units, lambda offset: self._draws[:count, offset], replace=self._replace)

    def perturbation(self, index: int, k: float) -> AddNoise | ReplaceByNoise:
        """Noise of scale `k` on one unit."""
        members, noise = self.units[index], self.of_unit(index)
        if not self._replace:
            return AddNoise(members[0], noise, k)
        chosen = torch.zeros(noise.shape[1], dtype=torch.bool)
        chosen[[token - members[0] for token in members]] = True
        return ReplaceByNoise(members[0], noise, chosen, k)

    def of_unit(self, index: int) -> Float[Tensor, "samples span dim"]:
        """The noise for a unit, from its first token to its last. It is 0 on tokens in between that belong to another unit."""
        members = self.units[index]
        offsets = tuple(token - members[0] for token in members)
        if offsets not in self._by_offsets:
            noise = self._draws.new_zeros(len(self._draws), offsets[-1] + 1, self._draws.shape[2])
            noise[:, list(offsets)] = self._draws[:, : len(offsets)]
            self._by_offsets[offsets] = noise
        return self._by_offsets[offsets]


def expected_norm(norm: str, dim: int) -> float:
    """E||n||_p of a standard normal vector of `dim` elements, with the paper's approximations (appendix D)."""
    mean_abs = math.sqrt(2 / math.pi)
    return {
        "l1": dim * mean_abs,
        "l2": math.sqrt(dim),
        "l3": (2 * mean_abs * dim) ** (1 / 3),
        "l4": (3 * dim) ** (1 / 4),
        "linf": math.sqrt(2 * math.log(dim)),
    }[norm]


def official_norm(norm: Norm, dim: int) -> float:
    """The divisor of the noise in the released code: `expected_norm`, but with 4 / sqrt(pi) for the third moment."""
    return (4 * dim / math.sqrt(math.pi)) ** (1 / 3) if norm == "l3" else expected_norm(norm, dim)


def paper_noise(samples: int, dim: int, seed: int, input_ids: tuple[int, ...], offset: int = 0) -> Tensor:
    """`samples` standard normal vectors, float32, keyed by (seed, token ids, offset). No other prompt matters.

    `offset` is the token's index in a unit that is perturbed as a whole.
    """
    vectors = generator(seed, input_ids, "noise", *([offset] if offset else [])).standard_normal((samples, dim), dtype=np.float32)
    return torch.from_numpy(vectors)


def paired(vectors: Float[Tensor, "draws dim"]) -> Float[Tensor, "rows dim"]:
    """n_1, -n_1, n_2, -n_2, ...: each vector with its negative. What is odd in the noise cancels in the mean of two such rows."""
    return torch.stack([vectors, -vectors], dim=1).flatten(0, 1)


def root_mean_square(embeds: Float[Tensor, "seq dim"], special: Sequence[bool]) -> float:
    """The root mean square of the elements of a prompt's embeddings, without special tokens if there are others."""
    chosen = [token for token, is_special in enumerate(special) if not is_special] or list(range(len(embeds)))
    return float(embeds[chosen].float().square().mean().sqrt())


def official_noise(samples: int, dim: int, norm: Norm | None) -> Tensor:
    """The noise of the released code: the same float64 vectors for every token, scale and prompt, divided by `norm` if given."""
    vectors = np.random.RandomState(1).randn(samples, dim)
    return torch.from_numpy(vectors / official_norm(norm, dim) if norm else vectors)


def random_scale(seed: int, input_ids: tuple[int, ...]) -> float:
    """One scale k ~ U(0, 1) for the prompt."""
    return float(generator(seed, input_ids, "scale").random())
