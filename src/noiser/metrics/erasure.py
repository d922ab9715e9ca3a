"""The code and the options that the erasure metrics share. An erasure metric removes whole tokens from a prompt."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float

from noiser.lm.requests import Steps, ask
from noiser.metrics.infill import infilled, replaced
from noiser.metrics.sample import MetricContext, Operator, Quantity, ScoresToEvaluate, Value
from noiser.registry import Range, metric

Draws = Annotated[int, Range(1, 10_000)]
Kept = Bool[np.ndarray, " seq"]
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of the tokens, as in DeYoung et al. 2020."""
SINGLE_TOKEN = Value(None, {}, "a prompt of one token cannot lose it: operator=delete needs two")
OPTIONS_HELP = """
Tokens with equal scores come in a random order, the same for every method.

operator  what happens to a token that is left out. zero: its embedding becomes zero. delete: it is removed, and the tokens behind it
          move up. resample: a token of another prompt replaces it. infill: the model itself draws a new one after the tokens to its
          left, so what is left is likely text; a row then costs up to T short rows more, and special tokens stay.
draws     with resample and infill, the number of random replacements to average over. All methods get the same ones.
"""


@dataclass(frozen=True, eq=False)
class Erasure:
    """How tokens of one context are left out."""

    context: MetricContext
    operator: Operator
    draws: int
    seed: int

    @property
    def removable(self) -> int:
        """How many tokens can be left out: all of them; with `delete` one has to stay."""
        return self.context.seq - (self.operator == "delete")

    def ranking(self, candidate: ScoresToEvaluate) -> list[int]:
        """The tokens, highest score first."""
        return self.context.ranked(candidate.scores, self.seed)

    def values(self, kept: Sequence[Kept], quantity: Quantity = "prob") -> Steps[Float[np.ndarray, " rows"]]:
        """The target's probability (or its logarithm) with only the kept tokens, one value for each of `kept`.

        With `resample` and `infill` a value is the mean over the draws.
        """
        if self.operator == "infill":
            measure = self.context.logit_fn(quantity)
            texts = yield from infilled(self.context, kept, self.draws, self.seed)
            rows = [[replaced(self.context, ids, measure) for ids in versions] for versions in texts]
        else:
            rows = [self.context.erased(mask, self.operator, self.draws, self.seed, quantity) for mask in kept]
        readouts = iter((yield from ask([perturbed for group in rows for perturbed in group])))
        return np.array([np.mean([next(readouts).values[0] for _ in group]) for group in rows])

    def curve(self, order: Sequence[int]) -> Steps[Float[np.ndarray, " steps"]]:
        """The target's probability after 0, 1, 2, ... tokens of the order are left out, up to `removable`."""
        kept = [~first_of(order, count) for count in range(1, self.removable + 1)]
        values = yield from self.values(kept)
        return np.concatenate([[self.context.objective.value], values])


def erasure_metric(name: str, **details: Any) -> Callable[[Callable], Callable]:
    """Registers a metric `(context, candidate, *, erasure)` that has the options `operator`, `draws` and `seed`.

    The keyword `erasure` stands for `operator` and `draws` among the options; `seed` comes last. `details` are those of
    `noiser.registry.metric`. The docstring gets the help of these options.
    """

    def register(function: Callable) -> Callable:
        def run(
            context: MetricContext,
            candidate: ScoresToEvaluate,
            *,
            operator: Operator = "zero",
            draws: Draws = 4,
            seed: int = 0,
            **options: Any,
        ) -> Steps[Value]:
            return function(context, candidate, erasure=Erasure(context, operator, draws, seed), **options)

        shared = inspect.signature(run).parameters
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function).parameters.values():
            parameters += [shared["operator"], shared["draws"]] if parameter.name == "erasure" else [parameter]
        update_wrapper(run, function)
        run.__signature__ = inspect.Signature([*parameters, shared["seed"]])  # type: ignore[attr-defined]
        run.__doc__ = f"{inspect.getdoc(function)}\n{OPTIONS_HELP}"
        return metric(name, **details)(run)

    return register


def first_of(order: Sequence[int], count: int) -> Kept:
    """True for the first `count` tokens of an order."""
    mask = np.zeros(len(order), dtype=bool)
    mask[list(order[:count])] = True
    return mask


def area(values: Float[np.ndarray, " steps"]) -> float:
    """The area under the curve over a width of 1, by the trapezoidal rule."""
    return float((values[1:] + values[:-1]).mean() / 2)
