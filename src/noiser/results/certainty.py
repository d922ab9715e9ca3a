"""How certain scores are, and their order, from their standard errors."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95


def critical_value(dof: int | None, level: float = LEVEL, together: int = 1) -> float:
    """How many standard errors an interval reaches to each side: Student's t, or the normal for `dof=None`.

    With `together` that many intervals hold all at the same time with probability `level`, however they depend on each other
    (Bonferroni).
    """
    from scipy.special import ndtri, stdtrit

    tail = 1 - (1 - level) / (2 * max(1, together))
    return float(ndtri(tail) if dof is None else stdtrit(dof, tail))


def half_widths(
    stderr: Float[np.ndarray, "targets n"] | None, dof: Sequence[int | None] | None, level: float = LEVEL
) -> Float[np.ndarray, "targets n"] | None:
    """How far the interval of each score reaches to each side, for each score by itself. None without errors."""
    if stderr is None:
        return None
    return stderr * np.array([[critical_value(each, level)] for each in dof or [None] * len(stderr)])


def rank_ranges(
    scores: Float[np.ndarray, " n"], stderr: Float[np.ndarray, " n"] | None, dof: int | None, level: float = LEVEL
) -> Int[np.ndarray, "n 2"]:
    """The first and the last place that each score may have, 1 for the highest. All ranges hold together with probability `level`.

    One score is below another for certain if their intervals are apart; the intervals hold together (see `critical_value`). So the
    ranges are right however the errors depend on each other, and a little wide. Without errors only equal scores share places.

    Source: Klein, Wright & Wieczorek 2020, A joint confidence region for an overall ranking of populations, JRSS C 69, 589 to 606.
    """
    half = 0.0 * scores if stderr is None else critical_value(dof, level, len(scores)) * stderr
    low, high = np.sort(scores - half), np.sort(scores + half)
    above = len(scores) - np.searchsorted(low, scores + half, side="right")
    below = np.searchsorted(high, scores - half, side="left")
    return np.stack([1 + above, len(scores) - below], axis=1)
