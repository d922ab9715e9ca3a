"""Log-odds: how far does the log-probability fall without the highest tokens?"""

from dataclasses import replace
from typing import Annotated

import numpy as np

from noiser.lm.requests import Steps
from noiser.metrics.erasure import SINGLE_TOKEN, Erasure, erasure_metric, first_of
from noiser.metrics.sample import MetricContext, ScoresToEvaluate, Value
from noiser.registry import Range


@erasure_metric(
    "log_odds",
    source="Shrikumar et al. 2017, arXiv:1704.02685",
    better="lower",
    measures="the change of the target's log-probability when the highest 20 % of the tokens are gone",
    failure_mode="single samples: it has no floor, so one prompt whose probability falls to nothing outweighs many; and the operator",
    cost="1 row of T tokens (x draws)",
)
def log_odds(
    context: MetricContext, candidate: ScoresToEvaluate, *, share: Annotated[float, Range(0.0, 1.0)] = 0.2, erasure: Erasure
) -> Steps[Value]:
    """Log-probability of the target without the highest tokens, minus that with all tokens; lower (more negative) is better.

    Undefined for a single token with operator=delete. Source: Shrikumar et al. 2017, arXiv:1704.02685, in the form that is usual for
    text: log p instead of log odds.

    share     the share of the tokens that is left out, rounded up, at least one token.
    """
    if not erasure.removable:
        return SINGLE_TOKEN
    count = min(max(1, int(np.ceil(share * context.seq))), erasure.removable)
    gone = first_of(erasure.ranking(candidate), count)
    everything = replace(erasure, operator="zero", draws=1)
    (whole,) = yield from everything.values([np.ones(context.seq, dtype=bool)], "log_prob")
    (rest,) = yield from erasure.values([~gone], "log_prob")
    return Value(float(rest - whole), {"tokens": count})
