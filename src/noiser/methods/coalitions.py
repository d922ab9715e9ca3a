"""Shapley values of a game from the values of coalitions: all of them, paired permutations, or a regression on sampled pairs.

Every sampler is a generator. It yields coalitions [rows, players], receives their values [rows], and returns an Estimate. The game of n
players is `value(coalition)`; the gap is `value(all) - value(none)`.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Bool, Float

Coalitions = Bool[np.ndarray, "rows players"]
Values = Float[np.ndarray, " rows"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """Shapley values, and how they were found."""

    values: Float[np.ndarray, " players"]
    """Their sum is `total - empty`."""
    total: float
    """The value of all players together."""
    empty: float
    """The value of no player."""
    coalitions: int
    """How many values were read."""
    stderr: Float[np.ndarray, " players"] | None = None
    """Standard error from the random draws. None: nothing was drawn, or too little to tell."""
    dof: int | None = None
    """Degrees of freedom of `stderr`. None: many."""


Sampling = Generator[Coalitions, Values, Estimate]


def exact(players: int) -> Sampling:
    """All 2^n coalitions, and the definition of Shapley (1953)."""
    present = all_coalitions(players)
    values = yield present
    shares = np.array([1 / (players * comb(players - 1, size)) for size in range(players)])
    found = np.empty(players)
    for player in range(players):
        others = ~present[:, player]
        found[player] = shares[present[others].sum(-1)] @ (values[present[:, player]] - values[others])
    return Estimate(found, float(values[-1]), float(values[0]), len(values))


def all_coalitions(players: int) -> Coalitions:
    """Every subset, counted in binary: the first is empty, the last has all players. Without one player, the order is the same."""
    return (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)


def paired_coalitions(players: int, pairs: int, rng: np.random.Generator) -> Coalitions:
    """Random coalitions, each followed by its complement, none twice: all players, no player, and so on. At most all of them.

    The coalitions with and without any player are equally many.
    """
    half = 2 ** (players - 1)  # the coalitions with the first player: one of each pair
    if half <= 4 * pairs:
        codes = all_coalitions(players)[1::2][::-1]
        chosen = codes[[0, *(1 + rng.choice(half - 1, min(pairs, half) - 1, replace=False))]]
    else:
        distinct = {b"\1" * players: None}
        while len(distinct) < pairs:
            distinct[np.append(True, rng.random(players - 1) < 0.5).tobytes()] = None
        chosen = np.frombuffer(b"".join(distinct), dtype=bool).reshape(pairs, players)
    return np.stack([chosen, ~chosen], axis=1).reshape(-1, players)


def by_permutations(players: int, pairs: int, rng: np.random.Generator) -> Sampling:
    """Players join in a random order, and then in the reverse order. A value is the mean gain at joining.

    The coalitions of the reverse order are the complements of the others. So a pair of orders cancels the even interactions of two.
    Source: Castro, Gomez & Tejada 2009 (permutations); Mitchell et al. 2022, arXiv:2104.12199 (a permutation and its reverse).
    """
    orders = np.stack([rng.permutation(players) for _ in range(pairs)])
    joined = np.zeros((pairs, players - 1, players), dtype=bool)  # after the first, ..., after the last but one
    for step in range(players - 1):
        joined[np.arange(pairs)[:, None], step, orders[:, : step + 1]] = True
    joined = joined.reshape(-1, players)
    values = yield np.concatenate([_ends(players), joined, ~joined])
    empty, total = values[:2]
    forward, backward = values[2:].reshape(2, pairs, players - 1)
    odd = np.pad((forward - backward) / 2, ((0, 0), (1, 1)), constant_values=((0, 0), ((empty - total) / 2, (total - empty) / 2)))
    gains = np.zeros((pairs, players))
    np.put_along_axis(gains, orders, np.diff(odd), axis=1)
    stderr = gains.std(0, ddof=1) / np.sqrt(pairs) if pairs > 1 else None
    return Estimate(gains.mean(0), float(total), float(empty), len(values), stderr, pairs - 1 if pairs > 1 else None)


def by_leverage(players: int, pairs: int, rng: np.random.Generator) -> Sampling:
    """Least squares on pairs of a coalition and its complement, drawn by leverage score.

    The Shapley values solve the regression of `value(S) - value(none)` on membership, weighted with the Shapley kernel and bound to add
    up to the gap. The leverage score of a coalition is the inverse of the number of coalitions of its size, so every size gets the same
    number of draws. A size with fewer pairs is taken whole. Draws are without replacement: if all pairs are read, the values are exact.

    Source: Musco & Witter 2025, arXiv:2410.01917. Different here: the number of draws of each size is fixed, not random.
    """
    sizes = range(1, players // 2 + 1)
    kernel = np.array([_shared(players, size) / (size * (players - size)) for size in sizes])  # of all pairs of this size
    counts = [_number_of_pairs(players, size) for size in sizes]
    draws = allocate(counts, [_shared(players, size) for size in sizes], pairs)
    drawn = [_draw(players, size, number, rng) for size, number in zip(sizes, draws, strict=True)]
    smaller = np.concatenate([np.zeros((0, players), dtype=bool), *drawn])
    values = yield np.concatenate([_ends(players), smaller, ~smaller])
    empty, total = values[:2].tolist()
    weights = np.repeat(kernel / np.maximum(draws, 1), draws)
    unread = np.repeat([1 - number / count for number, count in zip(draws, counts, strict=True)], draws)
    with_smaller, without = values[2:].reshape(2, -1)
    found, stderr = _least_squares(smaller, with_smaller - without, total - empty, weights, unread)
    dof = max(1, len(smaller) - players + 1)
    return Estimate(found, total, empty, len(values), stderr, None if stderr is None else dof)


def allocate(counts: Sequence[int], shares: Sequence[float], total: int) -> list[int]:
    """Integers that add up to `total`, in proportion to the shares, none above its count. If the counts do not suffice: the counts."""
    found = [0.0] * len(counts)
    opened = list(range(len(counts)))
    left = float(min(total, sum(counts)))
    while opened:
        scale = left / sum(shares[place] for place in opened)
        full = [place for place in opened if counts[place] <= scale * shares[place]]
        for place in full or opened:
            found[place] = float(counts[place]) if full else scale * shares[place]
        left -= sum(found[place] for place in full)
        opened = [place for place in opened if place not in full] if full else []
    whole = [int(number) for number in found]
    by_remainder = sorted(range(len(counts)), key=lambda place: whole[place] - found[place])
    for place in by_remainder[: min(total, sum(counts)) - sum(whole)]:
        whole[place] += 1
    return whole


def _least_squares(
    smaller: Coalitions, difference: Values, gap: float, weights: Values, unread: Values
) -> tuple[Float[np.ndarray, " players"], Float[np.ndarray, " players"] | None]:
    """The weighted fit that adds up to `gap`, and its standard error.

    smaller     the smaller coalition of each pair; a pair is one row, because its two coalitions say the same about the values.
    difference  its value minus that of its complement.
    unread      the share of the pairs of its size that was not drawn.

    The error comes from residuals as if each pair had been left out of the fit (HC3), times `unread`.
    """
    players = smaller.shape[1]
    if not len(smaller):
        return np.full(players, gap / players), None
    size = smaller.sum(-1)
    root = np.sqrt(weights)
    members = (smaller - size[:, None] / players) * root[:, None]  # orthogonal to the sum of all values
    wanted = (difference - gap * (2 * size / players - 1)) / 2 * root
    inverse = np.linalg.pinv(members)
    offsets = inverse @ wanted
    leverage = (members * inverse.T).sum(-1)
    residuals = (wanted - members @ offsets) / np.maximum(1 - leverage, 1e-6)
    stderr = np.sqrt(unread @ (inverse.T * residuals[:, None]) ** 2) if unread.any() else None
    return gap / players + offsets, stderr


def _shared(players: int, size: int) -> float:
    """1; or 1/2 if a coalition of this size and its complement are both of this size, so that there are half as many pairs."""
    return 0.5 if 2 * size == players else 1.0


def _number_of_pairs(players: int, size: int) -> int:
    """How many pairs have a smaller coalition of this size."""
    return comb(players, size) // (2 if 2 * size == players else 1)


def _draw(players: int, size: int, count: int, rng: np.random.Generator) -> Coalitions:
    """Different coalitions of one size, all equally likely. Of a coalition and a complement of the same size, only one is drawn."""
    always = list(range(2 * size == players))  # of two halves, that with the first player
    others, more = range(len(always), players), size - len(always)
    if _number_of_pairs(players, size) <= 4 * count:
        every = list(combinations(others, more))
        chosen = [every[index] for index in rng.choice(len(every), count, replace=False)]
    else:
        distinct: dict[tuple[int, ...], None] = {}
        while len(distinct) < count:
            distinct[tuple(sorted(rng.choice(others, more, replace=False).tolist()))] = None
        chosen = list(distinct)
    found = np.zeros((count, players), dtype=bool)
    for row, members in zip(found, chosen, strict=True):
        row[[*always, *members]] = True
    return found


def _ends(players: int) -> Coalitions:
    """No player, and all players."""
    return np.stack([np.zeros(players, dtype=bool), np.ones(players, dtype=bool)])
