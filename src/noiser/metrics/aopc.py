"""AOPC: how much is lost on average as the highest tokens go first? NAOPC: the same between the worst and the best order."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float

from noiser.lm.requests import Steps
from noiser.metrics.erasure import SINGLE_TOKEN, Erasure, erasure_metric
from noiser.metrics.sample import MetricContext, ScoresToEvaluate, Value
from noiser.registry import Range

EQUAL = 1e-9
"""The largest difference between two AOPC values that counts as none."""


@erasure_metric(
    "aopc",
    source="Samek et al. 2017, arXiv:1509.06321",
    better="higher",
    measures="the loss in the target's probability, mean over 1, 2, ... all tokens gone, highest first",
    failure_mode="how robust the model is: values of two models cannot be compared (naopc can); and the operator, as for comprehensiveness",
    cost="T rows of T tokens (x draws)",
)
def aopc(context: MetricContext, candidate: ScoresToEvaluate, *, erasure: Erasure) -> Steps[Value]:  # noqa: ARG001
    """Area over the perturbation curve: loss in the target's probability, mean over 1 to T tokens gone, highest first.

    In [-1, 1], higher is better. With operator=delete the last token stays; the metric is undefined for a single token. Source: Samek
    et al. 2017, arXiv:1509.06321.
    """
    if not erasure.removable:
        return SINGLE_TOKEN
    probs = yield from erasure.curve(erasure.ranking(candidate))
    losses = probs[0] - probs[1:]
    return Value(float(losses.mean()), {"values": losses.tolist()})


@erasure_metric(
    "naopc",
    source="Edin et al. 2024, arXiv:2408.08137",
    better="higher",
    measures="where the AOPC of this order of the tokens stands between that of the worst (0) and of the best order (1)",
    failure_mode="the operator, as for comprehensiveness; on long prompts the limits come from a beam search and can be passed",
    cost="at most 2^T rows of T tokens for T up to exact, else about beam x T^2 rows, once for all methods; and T rows for each",
)
def naopc(
    context: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    erasure: Erasure,
    exact: Annotated[int, Range(1, 16)] = 8,
    beam: Annotated[int, Range(1, 1000)] = 5,
) -> Steps[Value]:
    """AOPC, scaled so that the worst possible order of the tokens has 0 and the best order has 1; higher is better.

    Unlike AOPC it can be compared between prompts and models. Undefined if all orders have the same AOPC. Source: Edin et al. 2024,
    arXiv:2408.08137.

    exact     prompts of up to N tokens: every set of tokens is tried, and the limits are exact.
    beam      longer prompts: a beam search follows the N worst and the N best orders. An order can then pass the limits, so the
              value can be below 0 or above 1.
    """
    if not erasure.removable:
        return SINGLE_TOKEN
    probs = yield from erasure.curve(erasure.ranking(candidate))
    value = float((probs[0] - probs[1:]).mean())
    if context.seq <= exact:
        low, high = yield from _exact_limits(erasure)
    else:
        low = yield from _beam_limit(erasure, beam, -1)
        high = yield from _beam_limit(erasure, beam, 1)
    detail = {"aopc": value, "worst": low, "best": high, "limits": "exact" if context.seq <= exact else f"beam {beam}"}
    if high - low <= EQUAL:
        return Value(None, detail, "every order of the tokens has the same AOPC")
    return Value(float((value - low) / (high - low)), detail)


def _losses(erasure: Erasure, sets: Sequence[int]) -> Steps[Float[np.ndarray, " sets"]]:
    """The loss in probability without each set of tokens. A set is a number whose bit i stands for token i."""
    context = erasure.context
    kept = [np.array([not removed >> token & 1 for token in range(context.seq)]) for removed in sets]
    return context.objective.value - (yield from erasure.values(kept))


def _exact_limits(erasure: Erasure) -> Steps[tuple[float, float]]:
    """The lowest and the highest AOPC of all orders, by dynamic programming over all sets of tokens.

    The best way to a set is the best way to the set without one of its tokens, followed by that token.
    """
    seq, steps = erasure.context.seq, erasure.removable
    sets = [removed for removed in sorted(range(1, 2**seq), key=int.bit_count) if removed.bit_count() <= steps]
    loss = dict(zip(sets, (yield from _losses(erasure, sets)), strict=True))
    low, high = {0: 0.0}, {0: 0.0}
    for removed in sets:
        parts = [removed ^ (1 << token) for token in range(seq) if removed >> token & 1]
        low[removed] = loss[removed] + min(low[part] for part in parts)
        high[removed] = loss[removed] + max(high[part] for part in parts)
    ends = [removed for removed in sets if removed.bit_count() == steps]
    return float(min(low[end] for end in ends) / steps), float(max(high[end] for end in ends) / steps)


def _beam_limit(erasure: Erasure, beam: int, sign: int) -> Steps[float]:
    """The highest AOPC (`sign` 1) or the lowest (-1) that a beam search finds."""
    sums = {0: 0.0}
    for _ in range(erasure.removable):
        reached: dict[int, float] = {}
        for removed, total in sums.items():
            for token in range(erasure.context.seq):
                longer = removed | (1 << token)
                if longer != removed:
                    reached[longer] = max(total, reached.get(longer, total), key=lambda value: sign * value)
        sets = list(reached)
        losses = yield from _losses(erasure, sets)
        totals = {removed: reached[removed] + float(loss) for removed, loss in zip(sets, losses, strict=True)}
        best = sorted(totals, key=lambda removed: (-sign * totals[removed], removed))[:beam]
        sums = {removed: totals[removed] for removed in best}
    return max(sums.values(), key=lambda value: sign * value) / erasure.removable
