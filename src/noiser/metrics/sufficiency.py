"""Sufficiency: are the highest tokens enough by themselves? Comprehensiveness: how much is lost without them?"""

import numpy as np

from noiser.lm.requests import Steps
from noiser.metrics.erasure import SHARES, SINGLE_TOKEN, Erasure, erasure_metric, first_of
from noiser.metrics.sample import MetricContext, ScoresToEvaluate, Value

SOURCE = "DeYoung et al. 2020, arXiv:1911.03429"
COST = "5 rows of T tokens (x draws)"


@erasure_metric(
    "sufficiency",
    source=SOURCE,
    better="lower",
    measures="the loss in the target's probability when only the highest 1, 5, 10, 20, 50 % of the tokens are left (mean)",
    failure_mode="the operator: prompts of mostly zeros or holes are like nothing the model has seen; compare operators",
    cost=COST,
)
def sufficiency(context: MetricContext, candidate: ScoresToEvaluate, *, erasure: Erasure) -> Steps[Value]:
    """Loss in the target's probability when only the highest tokens are left, mean over five shares; in [-1, 1], lower is better.

    The shares are 1, 5, 10, 20 and 50 % of the tokens, rounded up. The mean over them is the area over the perturbation curve
    (AOPC). Source: DeYoung et al. 2020, arXiv:1911.03429.
    """
    counts = _counts(context.seq, context.seq)
    kept = [first_of(erasure.ranking(candidate), count) for count in counts]
    return (yield from _mean_loss(context, erasure, kept, counts))


@erasure_metric(
    "comprehensiveness",
    source=SOURCE,
    better="higher",
    measures="the loss in the target's probability when the highest 1, 5, 10, 20, 50 % of the tokens are gone (mean)",
    failure_mode="the operator: a method that scores by the same operator (occlusion: zero) answers its own question; compare operators",
    cost=COST,
)
def comprehensiveness(context: MetricContext, candidate: ScoresToEvaluate, *, erasure: Erasure) -> Steps[Value]:
    """Loss in the target's probability when the highest tokens are gone, mean over five shares; in [-1, 1], higher is better.

    The shares are 1, 5, 10, 20 and 50 % of the tokens, rounded up. The mean over them is the area over the perturbation curve
    (AOPC). Undefined for a single token with operator=delete. Source: DeYoung et al. 2020, arXiv:1911.03429.
    """
    if not erasure.removable:
        return SINGLE_TOKEN
    counts = _counts(context.seq, erasure.removable)
    kept = [~first_of(erasure.ranking(candidate), count) for count in counts]
    return (yield from _mean_loss(context, erasure, kept, counts))


def _counts(seq: int, limit: int) -> list[int]:
    """Each share of `seq` tokens as a whole number, rounded up, `limit` at most."""
    return [min(int(np.ceil(share * seq)), limit) for share in SHARES]


def _mean_loss(context: MetricContext, erasure: Erasure, kept: list[np.ndarray], counts: list[int]) -> Steps[Value]:
    losses = context.objective.value - (yield from erasure.values(kept))
    return Value(float(losses.mean()), {"shares": list(SHARES), "tokens": counts, "values": losses.tolist()})
