"""How far two methods agree about which tokens matter."""

import numpy as np
from jaxtyping import Float

TOP = 3

Scores = Float[np.ndarray, "targets seq"]


def spearman(one: Scores, other: Scores, lengths: list[int]) -> float | None:
    """Spearman's rank correlation of two score rows, mean over the targets; in [-1, 1], 1: the same order.

    `lengths` are how many tokens come before each target. None where a row has fewer than two tokens or no order at all.
    """
    from scipy.stats import rankdata

    found = []
    for a, b, length in zip(one, other, lengths, strict=True):
        ranks = [rankdata(row[:length]) for row in (a, b)]
        if length < 2 or any(np.ptp(rank) == 0 for rank in ranks):
            return None
        found.append(float(np.corrcoef(*ranks)[0, 1]))
    return float(np.mean(found))


def top_overlap(one: Scores, other: Scores, lengths: list[int]) -> float | None:
    """Which share of the TOP highest tokens both have in common, mean over the targets; in [0, 1]. Ties go to the earlier token;
    None where a row has no order at all."""
    shares = []
    for a, b, length in zip(one, other, lengths, strict=True):
        if np.ptp(a[:length]) == 0 or np.ptp(b[:length]) == 0:
            return None
        tops = [set(np.argsort(-row[:length], kind="stable")[:TOP].tolist()) for row in (a, b)]
        shares.append(len(tops[0] & tops[1]) / max(1, min(TOP, length)))
    return float(np.mean(shares))
