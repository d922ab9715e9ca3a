"""Sufficiency: are the highest tokens enough by themselves?"""

from noiser.lm.requests import Steps
from noiser.metrics.erasure import Draws, at_shares
from noiser.metrics.sample import MetricContext, Operator, ScoresToEvaluate, Value
from noiser.registry import metric


@metric(
    "sufficiency",
    source="DeYoung et al. 2020, arXiv:1911.03429",
    better="lower",
    measures="the loss in the target's probability when only the highest 1, 5, 10, 20, 50 % of the tokens are left (mean)",
    failure_mode="the operator: prompts of mostly zeros or holes are like nothing the model has seen; compare operators",
    cost="5 rows of T tokens (x draws)",
)
def sufficiency(
    sample: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    operator: Operator = "zero",
    draws: Draws = 4,
    seed: int = 0,
) -> Steps[Value]:
    """Loss in the target's probability when only the highest tokens are left, mean over five shares; in [-1, 1], lower is better.

    The shares are 1, 5, 10, 20 and 50 % of the tokens, rounded up; the mean over them is the area over the perturbation
    curve (AOPC). Tokens with equal scores come in an order drawn at random, the same for every method.

    operator  what becomes of a token that is left out: zero: a zero embedding; delete: it is not there; resample: a token of
              another prompt stands there.
    draws     with resample, how many replacements are averaged over; the same ones for every method.

    Source: DeYoung et al. 2020, arXiv:1911.03429.
    """
    return at_shares(sample, candidate, True, operator, draws, seed)


@metric(
    "comprehensiveness",
    source="DeYoung et al. 2020, arXiv:1911.03429",
    better="higher",
    measures="the loss in the target's probability when the highest 1, 5, 10, 20, 50 % of the tokens are gone (mean)",
    failure_mode="the operator: a method that scores by the same operator (occlusion: zero) answers its own question; compare operators",
    cost="5 rows of T tokens (x draws)",
)
def comprehensiveness(
    sample: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    operator: Operator = "zero",
    draws: Draws = 4,
    seed: int = 0,
) -> Steps[Value]:
    """Loss in the target's probability when the highest tokens are gone, mean over five shares; in [-1, 1], higher is better.

    The shares are 1, 5, 10, 20 and 50 % of the tokens, rounded up; the mean over them is the area over the perturbation
    curve (AOPC). Tokens with equal scores come in an order drawn at random, the same for every method. Undefined for a
    single token with operator=delete.

    operator  what becomes of a token that is left out: zero: a zero embedding; delete: it is not there; resample: a token of
              another prompt stands there.
    draws     with resample, how many replacements are averaged over; the same ones for every method.

    Source: DeYoung et al. 2020, arXiv:1911.03429.
    """
    return at_shares(sample, candidate, False, operator, draws, seed)
