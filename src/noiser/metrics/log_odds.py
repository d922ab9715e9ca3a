"""Log-odds: how far does the log-probability fall without the highest tokens?"""

from typing import Annotated

import numpy as np

from noiser.lm.requests import Steps
from noiser.metrics.erasure import NONE_LEFT, Draws, first, most, read
from noiser.metrics.sample import MetricContext, Operator, ScoresToEvaluate, Value
from noiser.registry import Range, metric


@metric(
    "log_odds",
    source="Shrikumar et al. 2017, arXiv:1704.02685",
    better="lower",
    measures="the change of the target's log-probability when the highest 20 % of the tokens are gone",
    failure_mode="single samples: it has no floor, so one prompt whose probability falls to nothing outweighs many; and the operator",
    cost="1 row of T tokens (x draws)",
)
def log_odds(
    sample: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    share: Annotated[float, Range(0.0, 1.0)] = 0.2,
    operator: Operator = "zero",
    draws: Draws = 4,
    seed: int = 0,
) -> Steps[Value]:
    """Log-probability of the target without the highest tokens, less that with all of them; lower (more negative) is better.

    Tokens with equal scores come in an order drawn at random, the same for every method. Undefined for a single token with
    operator=delete.

    share     of the tokens that are left out, rounded up, at least one.
    operator  what becomes of a token that is left out: zero: a zero embedding; delete: it is not there; resample: a token of
              another prompt stands there.
    draws     with resample, how many replacements are averaged over; the same ones for every method.

    Source: Shrikumar et al. 2017, arXiv:1704.02685, in the form that is usual for text: log p instead of log odds.
    """
    if not most(sample, operator):
        return NONE_LEFT
    count = min(max(1, int(np.ceil(share * sample.seq))), most(sample, operator))
    gone = first(sample.ranked(candidate.scores, seed), count)
    (whole,) = yield from read(sample, [np.ones(sample.seq, dtype=bool)], "zero", 1, seed, "log_prob")
    (left,) = yield from read(sample, [~gone], operator, draws, seed, "log_prob")
    return Value(float(left - whole), {"tokens": count})
