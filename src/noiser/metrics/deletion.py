"""Deletion: the curve as the highest tokens go first."""

from noiser.lm.requests import Steps
from noiser.metrics.erasure import NONE_LEFT, Draws, area, curve, most
from noiser.metrics.sample import MetricContext, Operator, ScoresToEvaluate, Value
from noiser.registry import metric


@metric(
    "deletion",
    source="Petsiuk et al. 2018, arXiv:1806.07421",
    better="lower",
    measures="the area under the target's probability as tokens are left out, highest first",
    failure_mode="the operator, as for comprehensiveness; and it is low for every method where the model is unsure from the start",
    cost="T rows of T tokens (x draws)",
)
def deletion(
    sample: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    operator: Operator = "zero",
    draws: Draws = 4,
    seed: int = 0,
) -> Steps[Value]:
    """Area under the target's probability as tokens are left out, highest first; in [0, 1], lower is better.

    From the whole prompt (left) to none of it (right), by trapezoids over a width of 1; with operator=delete one token
    stays, and it is undefined where there is only one. Tokens with equal scores come in an order drawn at random, the same
    for every method.

    operator  what becomes of a token that is left out: zero: a zero embedding; delete: it is not there; resample: a token of
              another prompt stands there.
    draws     with resample, how many replacements are averaged over; the same ones for every method.

    Source: Petsiuk et al. 2018, arXiv:1806.07421.
    """
    if not most(sample, operator):
        return NONE_LEFT
    probs = yield from curve(sample, sample.ranked(candidate.scores, seed), operator, draws, seed)
    return Value(area(probs), {"values": probs.tolist()})


@metric(
    "insertion",
    source="Petsiuk et al. 2018, arXiv:1806.07421",
    better="higher",
    measures="the area under the target's probability as tokens are put in, highest first",
    failure_mode="the operator, as for sufficiency; the first tokens stand alone among zeros or holes, which no model was trained on",
    cost="T rows of T tokens (x draws)",
)
def insertion(
    sample: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    operator: Operator = "zero",
    draws: Draws = 4,
    seed: int = 0,
) -> Steps[Value]:
    """Area under the target's probability as tokens are put into an empty prompt, highest first; in [0, 1], higher is better.

    From none of the prompt (left) to all of it (right), by trapezoids over a width of 1; with operator=delete from one
    token on, and undefined where there is only one. Tokens with equal scores come in an order drawn at random, the same for
    every method.

    operator  what becomes of a token that is left out: zero: a zero embedding; delete: it is not there; resample: a token of
              another prompt stands there.
    draws     with resample, how many replacements are averaged over; the same ones for every method.

    Source: Petsiuk et al. 2018, arXiv:1806.07421.
    """
    if not most(sample, operator):
        return NONE_LEFT
    lowest_first = sample.ranked(candidate.scores, seed)[::-1]
    probs = (yield from curve(sample, lowest_first, operator, draws, seed))[::-1]
    return Value(area(probs), {"values": probs.tolist()})
