"""Ways to put scores on a common scale. Always a separate, named step: what a method returns is never normalised."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from noiser.errors import OptionError, checkpoint

Scores = Float[np.ndarray, "targets seq"]


def normalize(scores: Scores, how: str) -> Scores:
    """`scores`, each target's row brought to a common scale.

    `none` leaves them; `clip_l1` drops what is negative and divides by the sum (a share of attribution mass, in [0, 1]);
    `abs_l1` divides the absolute values by their sum; `softmax` exponentiates and divides by the sum; `minmax` maps the
    lowest score to 0 and the highest to 1; `signed_sum` divides by the plain sum, keeps the signs, and is refused where
    that sum is not positive, because it would turn every sign around. A row without mass (no positive score, all zero,
    all equal) becomes zeros under `clip_l1`, `abs_l1` and `minmax` respectively.
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

agreement_Scores = Float[np.ndarray, "targets seq"]


def spearman(one: agreement_Scores, other: agreement_Scores, lengths: list[int]) -> float | None:
    """Spearman's rank correlation of two score rows, mean over the targets; in [-1, 1], 1: the same order.

    `lengths` are how many tokens come before each target. None where a row has fewer than two tokens or no order at all.
    """
    from scipy.stats import rankdata

    found = []
    for a, b, length in zip(one, other, lengths, strict=True):
        checkpoint()
        ranks = [rankdata(row[:length]) for row in (a, b)]
        if length < 2 or any(np.ptp(rank) == 0 for rank in ranks):
            return None
        found.append(float(np.corrcoef(*ranks)[0, 1]))
    return float(np.mean(found))


def top_overlap(one: agreement_Scores, other: agreement_Scores, lengths: list[int]) -> float | None:
    """Which share of the TOP highest tokens both have in common, mean over the targets; in [0, 1]. Ties go to the earlier token;
    None where a row has no order at all."""
    shares = []
    for a, b, length in zip(one, other, lengths, strict=True):
        if np.ptp(a[:length]) == 0 or np.ptp(b[:length]) == 0:
            return None
        tops = [set(np.argsort(-row[:length], kind="stable")[:TOP].tolist()) for row in (a, b)]
        shares.append(len(tops[0] & tops[1]) / max(1, min(TOP, length)))
    return float(np.mean(shares))
