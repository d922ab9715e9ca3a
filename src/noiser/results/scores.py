"""Scores on a common scale, how far two rankings agree, and how certain an order is. Methods never return normalised scores."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from noiser.errors import OptionError, checkpoint

Scores = Float[np.ndarray, "targets seq"]


def normalize(scores: Scores, how: str) -> Scores:
    """`scores` with each target's row on a common scale.

    none        the scores as they are.
    clip_l1     negative scores become 0, then divide by the sum: shares of attribution mass, in [0, 1].
    abs_l1      the absolute values divided by their sum.
    softmax     exponentials divided by their sum.
    minmax      the lowest score becomes 0, the highest 1.
    signed_sum  divide by the sum and keep the signs. Raises OptionError if the sum is not positive: every sign would flip.

    A row without mass becomes zeros: no positive score (`clip_l1`), all zero (`abs_l1`), all equal (`minmax`).
    """
    if how not in NORMALIZATIONS:
        raise OptionError(f"there is no normalization {how!r}; there are {', '.join(NORMALIZATIONS)}")
    return NORMALIZATIONS[how](np.asarray(scores, dtype=np.float64))


def _share(mass: Scores) -> Scores:
    total = mass.sum(-1, keepdims=True)
    return np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)


def _softmax(scores: Scores) -> Scores:
    return _share(np.exp(scores - scores.max(-1, keepdims=True, initial=-np.inf)))


def _minmax(scores: Scores) -> Scores:
    low, high = scores.min(-1, keepdims=True, initial=np.inf), scores.max(-1, keepdims=True, initial=-np.inf)
    return np.divide(scores - low, high - low, out=np.zeros_like(scores), where=high > low)


def _signed_sum(scores: Scores) -> Scores:
    total = scores.sum(-1, keepdims=True)
    if not (total > 0).all():
        raise OptionError(
            f"signed_sum divides by the scores' sum, here {total.min():.3g}: the signs would mean nothing. Use abs_l1 instead."
        )
    return scores / total


NORMALIZATIONS: dict[str, Callable[[Scores], Scores]] = {
    "none": lambda scores: scores,
    "clip_l1": lambda scores: _share(scores.clip(min=0)),
    "abs_l1": lambda scores: _share(np.abs(scores)),
    "softmax": _softmax,
    "minmax": _minmax,
    "signed_sum": _signed_sum,
}


TOP = 3
"""How many of the highest tokens `top_overlap` compares."""


def spearman(one: Scores, other: Scores, lengths: list[int]) -> float | None:
    """Spearman's rank correlation of the scores of two methods, mean over the targets; in [-1, 1], 1 means the same order.

    `lengths` is the number of tokens before each target. None if a row has fewer than two tokens, or all its scores are equal.
    """
    from scipy.stats import rankdata

    correlations = []
    for a, b, length in zip(one, other, lengths, strict=True):
        checkpoint()
        ranks = [rankdata(row[:length]) for row in (a, b)]
        if length < 2 or any(np.ptp(rank) == 0 for rank in ranks):
            return None
        correlations.append(float(np.corrcoef(*ranks)[0, 1]))
    return float(np.mean(correlations))


def top_overlap(one: Scores, other: Scores, lengths: list[int]) -> float | None:
    """The share of the TOP highest tokens that both methods have in common, mean over the targets; in [0, 1].

    Ties go to the earlier token. None if all scores of a row are equal.
    """
    shares = []
    for a, b, length in zip(one, other, lengths, strict=True):
        if np.ptp(a[:length]) == 0 or np.ptp(b[:length]) == 0:
            return None
        tops = [set(np.argsort(-row[:length], kind="stable")[:TOP].tolist()) for row in (a, b)]
        shares.append(len(tops[0] & tops[1]) / max(1, min(TOP, length)))
    return float(np.mean(shares))


def rank_correlations(one: Float[np.ndarray, "draws methods"], other: Float[np.ndarray, "draws methods"]) -> Float[np.ndarray, " draws"]:
    """Spearman's rank correlation of each draw, in [-1, 1]. Equal values share the mean of their ranks. NaN if all are equal."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=1) for values in (one, other)]
    first, second = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    with np.errstate(all="ignore"):  # 0 / 0 gives NaN, which is reported as a missing number
        return (first * second).sum(1) / np.sqrt((first**2).sum(1) * (second**2).sum(1))


def auroc(scores: Float[np.ndarray, " n"], positive: Sequence[int]) -> float:
    """The chance that one of the `positive` has a higher score than one of the others, in [0, 1]; a tie counts half.

    0.5 is chance. At least one must be positive and one not. Source: Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    chosen = np.isin(np.arange(len(scores)), positive)
    differences = np.sign(scores[chosen][:, None] - scores[~chosen])
    return float((differences.mean() + 1) / 2)


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
