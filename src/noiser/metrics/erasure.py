"""The target's probability when whole tokens are left out, in three ways, and tokens left out one after the other."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float

from noiser.lm.requests import Steps, ask
from noiser.metrics.sample import MetricContext, Operator, Quantity, ScoresToEvaluate, Value
from noiser.registry import Range

Draws = Annotated[int, Range(1, 10_000)]
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Of the tokens, as in DeYoung et al. 2020."""
Kept = Bool[np.ndarray, " seq"]


def read(
    sample: MetricContext, kept: Sequence[Kept], operator: Operator, draws: int, seed: int, quantity: Quantity = "prob"
) -> Steps[Float[np.ndarray, " rows"]]:
    """The target's probability (or its logarithm) with only the kept tokens there, one for each of `kept`.

    zero      the others' embeddings are zero.
    delete    the others are not there at all, and what follows moves up.
    resample  tokens of other prompts stand in their places: the mean over `draws` of them.
    """
    probes = [sample.erased(each, operator, draws, seed, quantity) for each in kept]
    readings = iter((yield from ask([probe for own in probes for probe in own])))
    return np.array([np.mean([next(readings).values[0] for _ in own]) for own in probes])


def first(order: Sequence[int], count: int) -> Kept:
    """True for the first `count` tokens of an order."""
    chosen = np.zeros(len(order), dtype=bool)
    chosen[list(order[:count])] = True
    return chosen


def most(sample: MetricContext, operator: Operator) -> int:
    """How many tokens can be left out: all of them, but with `delete` one has to stay."""
    return sample.seq - (operator == "delete")


NONE_LEFT = Value(None, {}, "a prompt of one token cannot lose it: operator=delete needs two")


def at_shares(
    sample: MetricContext, candidate: ScoresToEvaluate, retained: bool, operator: Operator, draws: int, seed: int
) -> Steps[Value]:
    """The loss in the target's probability when the highest tokens are all that is left, or all that is gone."""
    if not retained and not most(sample, operator):
        return NONE_LEFT
    order = sample.ranked(candidate.scores, seed)
    counts = [min(int(np.ceil(share * sample.seq)), sample.seq if retained else most(sample, operator)) for share in SHARES]
    top = [first(order, count) for count in counts]
    left = yield from read(sample, [each if retained else ~each for each in top], operator, draws, seed)
    lost = sample.goal.value - left
    return Value(float(lost.mean()), {"shares": list(SHARES), "tokens": counts, "values": lost.tolist()})


def curve(sample: MetricContext, order: Sequence[int], operator: Operator, draws: int, seed: int) -> Steps[Float[np.ndarray, " steps"]]:
    """The target's probability after 0, 1, 2, ... tokens of the order were left out, as many as can be."""
    gone = [~first(order, count) for count in range(1, most(sample, operator) + 1)]
    left = yield from read(sample, gone, operator, draws, seed)
    return np.concatenate([[sample.goal.value], left])


def area(values: Float[np.ndarray, " steps"]) -> float:
    """Under the curve, over a width of 1 (trapezoids)."""
    return float((values[1:] + values[:-1]).mean() / 2)
