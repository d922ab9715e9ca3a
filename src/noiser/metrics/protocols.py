"""From scores to keep-probabilities: how many of a token's elements stay, in each of the masks."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from noiser.errors import NonFiniteError
from noiser.registry import PaperNormalization
from noiser.results.scores import normalize

Protocol = Literal["matched", "proportional", "paper", "official"]
Scores = Float[np.ndarray, " seq"]
Keep = Float[np.ndarray, "masks seq"]
TINY = 1e-200
"""A share of the largest score that counts as 0, so that no sum underflows."""


def shares(masks: int) -> Float[np.ndarray, " masks"]:
    """The mean keep-probability of each mask, `(m - 1/2) / masks`: the midpoint rule for the area over (0, 1)."""
    return (np.arange(masks) + 0.5) / masks


def keep_probabilities(protocol: Protocol, scores: Scores, normalization: PaperNormalization, masks: int) -> Keep:
    """The probability, in [0, 1], with which each element of a token's embedding is retained in each mask.

    matched       only the order of the scores counts: `matched` at the shares above.
    proportional  the positive scores, scaled to a mean of each share: `proportional`.
    paper         the scores as a share of attribution mass (`clip_l1`), the same in every mask.
    official      the scores as the released code hands them on, above 1 and below 0 cut off: the same in every mask.
    """
    if protocol == "matched":
        return np.stack([matched(scores, share) for share in shares(masks)])
    if protocol == "proportional":
        return np.stack([proportional(scores, share) for share in shares(masks)])
    once = normalize(scores[None], "clip_l1")[0] if protocol == "paper" else paper_normalized(scores, normalization)
    return np.tile(once.clip(0, 1), (masks, 1))


def matched(scores: Scores, share: float) -> Scores:
    """A linear ramp over the ranks, inside [0, 1], whose mean is exactly `share`; ties have the mean of their ranks."""
    from scipy.stats import rankdata

    place = (rankdata(-scores) - 0.5) / len(scores)
    return 2 * share * (1 - place) if share <= 0.5 else 1 - 2 * (1 - share) * place


def proportional(scores: Scores, share: float) -> Scores:
    """`min(1, a * max(score, 0))`, with `a` such that the mean is `share` (Huang & Chan 2026, arXiv:2601.03089).

    Where all tokens with a positive score are kept whole and the mean still falls short, the others share the rest evenly.
    """
    mass = scores.clip(min=0) / max(scores.max(), np.finfo(float).tiny)
    mass[mass < TINY] = 0
    size, positive = len(scores), mass > 0
    budget, count = share * size, int(positive.sum())
    if budget >= count:
        return np.where(positive, 1.0, (budget - count) / max(1, size - count))
    order = np.argsort(-mass, kind="stable")[:count]
    left = np.cumsum(mass[order][::-1])[::-1]
    spread = (budget - np.arange(count)) * mass[order] / left
    whole = int(np.argmax(spread <= 1))
    keep = np.zeros(size)
    keep[order] = np.where(np.arange(count) < whole, 1.0, (budget - whole) * mass[order] / left[whole])
    return keep


def paper_normalized(scores: Scores, normalization: PaperNormalization) -> Scores:
    """What the authors' released code makes of scores of this kind. Raises NonFiniteError where it would divide by 0."""
    if normalization != "signed_sum":
        return normalize(scores[None], normalization)[0]
    total = scores.sum()
    if total == 0:
        raise NonFiniteError("protocol=official divides the scores by their sum, which is 0 here: they have no values")
    return scores / total
