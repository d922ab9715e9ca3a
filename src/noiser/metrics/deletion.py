"""Deletion and insertion: the curve as the highest tokens are left out, or put in, one after the other."""

from noiser.lm.requests import Steps
from noiser.metrics.erasure import SINGLE_TOKEN, Erasure, area, erasure_metric
from noiser.metrics.sample import MetricContext, ScoresToEvaluate, Value

SOURCE = "Petsiuk et al. 2018, arXiv:1806.07421"
COST = "T rows of T tokens (x draws)"


@erasure_metric(
    "deletion",
    source=SOURCE,
    better="lower",
    measures="the area under the target's probability as tokens are left out, highest first",
    failure_mode="the operator, as for comprehensiveness; and it is low for every method where the model is unsure from the start",
    cost=COST,
)
def deletion(context: MetricContext, candidate: ScoresToEvaluate, *, erasure: Erasure) -> Steps[Value]:  # noqa: ARG001
    """Area under the target's probability as tokens are left out, highest first; in [0, 1], lower is better.

    The curve runs from the whole prompt (left) to none of it (right); trapezoids over a width of 1. With operator=delete one token
    stays; the metric is undefined for a single token. Source: Petsiuk et al. 2018, arXiv:1806.07421.
    """
    if not erasure.removable:
        return SINGLE_TOKEN
    probs = yield from erasure.curve(erasure.ranking(candidate))
    return Value(area(probs), {"values": probs.tolist()})


@erasure_metric(
    "insertion",
    source=SOURCE,
    better="higher",
    measures="the area under the target's probability as tokens are put in, highest first",
    failure_mode="the operator, as for sufficiency; the first tokens stand alone among zeros or holes, which no model was trained on",
    cost=COST,
)
def insertion(context: MetricContext, candidate: ScoresToEvaluate, *, erasure: Erasure) -> Steps[Value]:  # noqa: ARG001
    """Area under the target's probability as tokens are put into an empty prompt, highest first; in [0, 1], higher is better.

    The curve runs from none of the prompt (left) to all of it (right); trapezoids over a width of 1. With operator=delete it starts
    with one token; the metric is undefined for a single token. Source: Petsiuk et al. 2018, arXiv:1806.07421.
    """
    if not erasure.removable:
        return SINGLE_TOKEN
    lowest_first = erasure.ranking(candidate)[::-1]
    probs = (yield from erasure.curve(lowest_first))[::-1]
    return Value(area(probs), {"values": probs.tolist()})
