"""Noise for the pieces of a prompt: the same vectors wherever they are put."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Noise:
    """`draws(offset)` are the vectors for a piece's token number `offset`; a piece's first token has those that it has alone."""

    def __init__(self, pieces: Sequence[tuple[int, ...]], draws: Callable[[int], Float[Tensor, "samples dim"]]) -> None:
        self.pieces = pieces
        """The positions of each piece's tokens."""
        widest = max(map(len, pieces))
        self._draws = torch.stack([draws(offset) for offset in range(widest)], dim=1)
        self._laid: dict[tuple[int, ...], Float[Tensor, "samples span dim"]] = {}

    def on(self, piece: int) -> Float[Tensor, "samples span dim"]:
        """The noise on a piece, from its first token to its last; 0 on tokens between that are not its own."""
        members = self.pieces[piece]
        places = tuple(token - members[0] for token in members)
        if places not in self._laid:
            laid = self._draws.new_zeros(len(self._draws), places[-1] + 1, self._draws.shape[2])
            laid[:, list(places)] = self._draws[:, : len(places)]
            self._laid[places] = laid
        return self._laid[places]
