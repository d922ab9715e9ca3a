"""AOPC: how much is lost on average as the tokens go, highest first?"""

from noiser.lm.runner import LanguageModel
from noiser.lm.steps import Steps
from noiser.metrics.erasure import NONE_LEFT, Draws, curve, most
from noiser.metrics.sample import Candidate, Operator, Sample, Value
from noiser.registry import metric


@metric(
    "aopc",
    source="Samek et al. 2017, arXiv:1509.06321",
    better="higher",
    measures="the loss in the target's probability, mean over 1, 2, ... all tokens gone, highest first",
    fools="how robust the model is: values of two models cannot be compared (naopc can); and the operator, as for comprehensiveness",
    cost="T rows of T tokens (x draws)",
)
def aopc(
    lm: LanguageModel,  # noqa: ARG001
    sample: Sample,
    candidate: Candidate,
    *,
    operator: Operator = "zero",
    draws: Draws = 4,
    seed: int = 0,
) -> Steps[Value]:
    """Area over the perturbation curve: loss in the target's probability, mean over 1 to T tokens gone, highest first.

    In [-1, 1], higher is better. With operator=delete the last token stays; undefined where there is only one. Tokens with
    equal scores come in an order drawn at random, the same for every method.

    operator  what becomes of a token that is left out: zero: a zero embedding; delete: it is not there; resample: a token of
              another prompt stands there.
    draws     with resample, how many replacements are averaged over; the same ones for every method.

    Source: Samek et al. 2017, arXiv:1509.06321.
    """
    if not most(sample, operator):
        return NONE_LEFT
    probs = yield from curve(sample, sample.ranked(candidate.scores, seed), operator, draws, seed)
    lost = probs[0] - probs[1:]
    return Value(float(lost.mean()), {"values": lost.tolist()})
