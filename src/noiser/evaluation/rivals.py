"""Scores that a value is compared with: random orders of the tokens, and the same scores with more and more noise in them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from noiser.lm.requests import Steps, gather
from noiser.metrics.sample import ScoresToEvaluate, Value
from noiser.rng import generator

LADDER = (0, 25, 50, 75, 100)
"""How many percent of the scores are noise: a random permutation of the same scores."""
Measure = Callable[[ScoresToEvaluate], Steps[Value]]
Scores = Float[np.ndarray, " seq"]


@dataclass(frozen=True)
class Rivals:
    """What every value of a metric is compared with."""

    orders: int = 0
    """Random orders of the tokens. They get the same scores, highest first, so they have the same ties."""
    ladder: str = ""
    """The label of the row whose scores make the ladder. Empty: there is none."""
    seed: int = 0

    def measure(self, label: str, better: str, candidate: ScoresToEvaluate, ids: tuple[int, ...], measure: Measure) -> Steps[Value]:
        """The value of a row's scores. Its `extra` holds `win_rate` and `p_random` if there are random orders, and `ladder`, the share of
        the ladder's neighbours of which the one with less noise is better, for the row that makes it. None of them if a rival has no value.
        """
        value = yield from measure(candidate)  # first: its numbers do not depend on the rows of the rivals beside it
        shuffled = list(self._shuffled(candidate.scores, ids))
        rungs = list(self._rungs(candidate.scores, ids)) if label == self.ladder else []
        rivals = [replace(candidate, scores=scores) for scores in (*shuffled, *rungs)]
        others = yield from gather([measure(each) for each in rivals])
        values = [other.value for other in others if other.value is not None]
        if value.value is None or len(values) < len(others):
            return value
        sign = 1.0 if better == "higher" else -1.0
        extra = dict(value.extra)
        if shuffled:
            gaps = sign * (value.value - np.array(values[: len(shuffled)]))
            extra |= {"win_rate": float((np.sign(gaps).mean() + 1) / 2), "p_random": float((1 + (gaps <= 0).sum()) / (1 + len(shuffled)))}
        if rungs:
            extra["ladder"] = float(in_order(sign * np.array([value.value, *values[len(shuffled) :]])).mean())
        return replace(value, extra=extra)

    def _shuffled(self, scores: Scores, ids: tuple[int, ...]) -> Iterator[Scores]:
        """The scores in each random order. Draws are keyed by (seed, token ids, index), so all methods meet the same orders."""
        falling = np.sort(scores)[::-1]
        for index in range(self.orders):
            shuffled = np.empty_like(scores)
            shuffled[generator(self.seed, ids, "orders", index).permutation(len(scores))] = falling
            yield shuffled

    def _rungs(self, scores: Scores, ids: tuple[int, ...]) -> Iterator[Scores]:
        """The rungs below the scores themselves. The last has the scores of the control `permuted`."""
        permuted = permuted_scores(scores, ids, self.seed)
        return (mixed(scores, permuted, share) for share in LADDER[1:])


NO_RIVALS = Rivals()


def permuted_scores(scores: Scores, ids: tuple[int, ...], seed: int) -> Scores:
    """The same scores in a random order, keyed by (seed, token ids)."""
    return generator(seed, ids[: len(scores)], "permuted").permutation(scores)


def mixed(scores: Float[np.ndarray, "*rows seq"], noise: Float[np.ndarray, "*rows seq"], share: int) -> Float[np.ndarray, "*rows seq"]:
    """The scores with this percentage of noise."""
    return (1 - share / 100) * scores + share / 100 * noise


def in_order(values: Float[np.ndarray, "... rungs"] | Sequence[float]) -> Float[np.ndarray, "... neighbours"]:
    """For each two neighbours, the one with less noise first: 1 if it is higher, 1/2 if both are equal, else 0."""
    less, more = np.asarray(values)[..., :-1], np.asarray(values)[..., 1:]
    return ((less > more) + 0.5 * (less == more)).astype(np.float64)
