"""How many noise vectors: a number, or as many as the scores need to be known to a tolerance."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from noiser.methods.base import Steps
from noiser.methods.noiser.evaluations import Drops, NoiseEvaluations
from noiser.methods.uncertainty import stderr_of_mean

FIRST_DRAWS = 8
"""With samples=auto, the draws before the first look at the standard errors."""

Evaluate = Callable[[int, int], NoiseEvaluations]
"""Evaluations with the noise vectors from one number up to, not including, another."""


def draw_until(
    evaluate: Evaluate, scales: Sequence[float], tolerance: float, max_samples: int, *, pairs: bool
) -> Steps[tuple[NoiseEvaluations, Drops]]:
    """Draw until the standard error of every score is at most `tolerance` times the largest |score|, or until `max_samples`.

    Returns the evaluations of the first draws, and the drops with all of them.
    """
    evaluations = evaluate(0, min(FIRST_DRAWS, max_samples))
    drops = yield from evaluations.drops(scales)
    while (count := drops.each.shape[1]) < max_samples:
        needed = _draws_needed(drops, tolerance, pairs=pairs)
        if needed <= count:
            break
        stop = min(needed, 2 * count, max_samples)
        more = yield from evaluate(count, stop).drops(scales)
        each = np.concatenate([drops.each, more.each], axis=1)
        drops = Drops(each.mean(axis=1), each)
    return evaluations, drops


def _draws_needed(drops: Drops, tolerance: float, *, pairs: bool) -> int:
    """An even number of draws with which every standard error is expected to be within the tolerance."""
    stderr, _ = stderr_of_mean(drops.each, pairs=pairs)
    count = drops.each.shape[1]
    if stderr is None:
        return count + 2
    largest, wanted = float(stderr.max(initial=0.0)), tolerance * float(np.abs(drops.means).max(initial=0.0))
    if largest <= wanted:
        return count
    return max(count + 2, 2 * math.ceil(count * (largest / wanted) ** 2 / 2)) if wanted > 0 else 2 * count
