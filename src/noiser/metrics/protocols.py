"""From scores to keep-probabilities: the share of a token's embedding elements that each mask keeps."""

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
"""A smaller share of the largest score counts as 0, so that no sum underflows."""


def shares(masks: int) -> Float[np.ndarray, " masks"]:
    """The mean keep-probability of mask m of 1 to `masks`: `(m - 1/2) / masks`, the midpoint rule for the area over (0, 1)."""
    return (np.arange(masks) + 0.5) / masks


def keep_probabilities(protocol: Protocol, scores: Scores, normalization: PaperNormalization, masks: int) -> Keep:
    """The probability, in [0, 1], with which each mask keeps an element of each token's embedding.

    matched       only the order of the scores counts: `matched` at each of `shares(masks)`.
    proportional  the positive scores, scaled so that their mean is each share: `proportional`.
    paper         the scores as shares of attribution mass (`clip_l1`), the same in every mask.
    official      the scores as the released code normalises them, clipped to [0, 1], the same in every mask.
    """
    if protocol == "matched":
        return np.stack([matched(scores, share) for share in shares(masks)])
    if protocol == "proportional":
        return np.stack([proportional(scores, share) for share in shares(masks)])
    keep = normalize(scores[None], "clip_l1")[0] if protocol == "paper" else paper_normalized(scores, normalization)
    return np.tile(keep.clip(0, 1), (masks, 1))


def matched(scores: Scores, share: float) -> Scores:
    """A linear ramp over the ranks, inside [0, 1], with a mean of exactly `share`. Ties get the mean of their ranks."""
    from scipy.stats import rankdata

    rank = (rankdata(-scores) - 0.5) / len(scores)
    return 2 * share * (1 - rank) if share <= 0.5 else 1 - 2 * (1 - share) * rank


def proportional(scores: Scores, share: float) -> Scores:
    """`min(1, a * max(score, 0))`, with `a` such that the mean is `share`. Source: Huang & Chan 2026, arXiv:2601.03089.

    If the mean is too small even with all tokens of positive score kept whole, the other tokens share the rest evenly.
    """
    mass = scores.clip(min=0) / max(scores.max(), np.finfo(float).tiny)
    mass[mass < TINY] = 0
    size, positive = len(scores), mass > 0
    budget, count = share * size, int(positive.sum())
    if budget >= count:
        return np.where(positive, 1.0, (budget - count) / max(1, size - count))
    order = np.argsort(-mass, kind="stable")[:count]
    remaining = np.cumsum(mass[order][::-1])[::-1]
    spread = (budget - np.arange(count)) * mass[order] / remaining
    whole = int(np.argmax(spread <= 1))
    keep = np.zeros(size)
    keep[order] = np.where(np.arange(count) < whole, 1.0, (budget - whole) * mass[order] / remaining[whole])
    return keep


def paper_normalized(scores: Scores, normalization: PaperNormalization) -> Scores:
    """The scores as the authors' released code normalises them. Raises NonFiniteError if it would divide by 0."""
    if normalization != "signed_sum":
        return normalize(scores[None], normalization)[0]
    total = scores.sum()
    if total == 0:
        raise NonFiniteError("protocol=official divides the scores by their sum, which is 0 here: use protocol=matched")
    return scores / total
