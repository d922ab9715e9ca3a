"""AOPC: how much is lost on average as the tokens go, highest first?"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float

from noiser.lm.requests import Steps
from noiser.metrics.erasure import NONE_LEFT, Draws, curve, most, read
from noiser.metrics.sample import MetricContext, Operator, ScoresToEvaluate, Value
from noiser.registry import Range, metric


@metric(
    "aopc",
    source="Samek et al. 2017, arXiv:1509.06321",
    better="higher",
    measures="the loss in the target's probability, mean over 1, 2, ... all tokens gone, highest first",
    failure_mode="how robust the model is: values of two models cannot be compared (naopc can); and the operator, as for comprehensiveness",
    cost="T rows of T tokens (x draws)",
)
def aopc(
    sample: MetricContext,
    candidate: ScoresToEvaluate,
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


SAME = 1e-9


@metric(
    "naopc",
    source="Edin et al. 2024, arXiv:2408.08137",
    better="higher",
    measures="where the AOPC of this order of the tokens stands between that of the worst (0) and of the best order (1)",
    failure_mode="the operator, as for comprehensiveness; on long prompts the limits come from a beam search and can be passed",
    cost="at most 2^T rows of T tokens for T up to exact, else about beam x T^2 rows, once for all methods; and T rows for each",
)
def naopc(
    sample: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    operator: Operator = "zero",
    draws: Draws = 4,
    exact: Annotated[int, Range(1, 16)] = 8,
    beam: Annotated[int, Range(1, 1000)] = 5,
    seed: int = 0,
) -> Steps[Value]:
    """AOPC, 0 for the worst order of the tokens that exists and 1 for the best; higher is better.

    Comparable between prompts and models, which AOPC is not. Undefined where all orders have the same AOPC.

    operator  what becomes of a token that is left out: zero: a zero embedding; delete: it is not there; resample: a token of
              another prompt stands there.
    draws     with resample, how many replacements are averaged over; the same ones for every method.
    exact     up to so many tokens every set of tokens is tried, and the limits are exact.
    beam      for longer prompts so many of the worst and best orders are followed; an order may then pass them, below 0 or
              above 1.

    Source: Edin et al. 2024, arXiv:2408.08137.
    """
    steps = most(sample, operator)
    if not steps:
        return NONE_LEFT
    how = (operator, draws, seed)
    probs = yield from curve(sample, sample.ranked(candidate.scores, seed), *how)
    own = float((probs[0] - probs[1:]).mean())
    if sample.seq <= exact:
        low, high = yield from _exact_limits(sample, steps, how)
    else:
        low = yield from _beam_limit(sample, steps, how, beam, -1)
        high = yield from _beam_limit(sample, steps, how, beam, 1)
    detail = {"aopc": own, "worst": low, "best": high, "limits": "exact" if sample.seq <= exact else f"beam {beam}"}
    if high - low <= SAME:
        return Value(None, detail, "every order of the tokens has the same AOPC")
    return Value(float((own - low) / (high - low)), detail)


How = tuple[Operator, int, int]


def _drops(sample: MetricContext, gone: Sequence[int], how: How) -> Steps[Float[np.ndarray, " sets"]]:
    """The loss in probability without each set of tokens, a set being the bits of a number."""
    kept = [np.array([not chosen >> token & 1 for token in range(sample.seq)]) for chosen in gone]
    return sample.goal.value - (yield from read(sample, kept, *how))


def _exact_limits(sample: MetricContext, steps: int, how: How) -> Steps[tuple[float, float]]:
    """The lowest and highest AOPC of all orders, from the loss without every set: the best way to a set is the best to one of
    its parts that lack a single token, and then that token."""
    sets = sorted(range(1, 2**sample.seq), key=int.bit_count)
    sets = [chosen for chosen in sets if chosen.bit_count() <= steps]
    drop = dict(zip(sets, (yield from _drops(sample, sets, how)), strict=True))
    low, high = {0: 0.0}, {0: 0.0}
    for chosen in sets:
        parts = [chosen ^ (1 << token) for token in range(sample.seq) if chosen >> token & 1]
        low[chosen] = drop[chosen] + min(low[part] for part in parts)
        high[chosen] = drop[chosen] + max(high[part] for part in parts)
    ends = [chosen for chosen in sets if chosen.bit_count() == steps]
    return float(min(low[end] for end in ends) / steps), float(max(high[end] for end in ends) / steps)


def _beam_limit(sample: MetricContext, steps: int, how: How, beam: int, sign: int) -> Steps[float]:
    """The highest AOPC (`sign` 1) or the lowest (-1) that a beam search finds."""
    sums = {0: 0.0}
    for _ in range(steps):
        reached: dict[int, float] = {}
        for chosen, total in sums.items():
            for token in range(sample.seq):
                longer = chosen | (1 << token)
                if longer != chosen:
                    reached[longer] = max(total, reached.get(longer, total), key=lambda value: sign * value)
        sets = list(reached)
        drops = yield from _drops(sample, sets, how)
        found = {chosen: reached[chosen] + float(drop) for chosen, drop in zip(sets, drops, strict=True)}
        best = sorted(found, key=lambda chosen: (-sign * found[chosen], chosen))[:beam]
        sums = {chosen: found[chosen] for chosen in best}
    return max(sums.values(), key=lambda value: sign * value) / steps
