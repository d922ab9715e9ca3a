"""Input x gradient."""

import numpy as np

from noiser.lm.edit import Fade
from noiser.lm.goal import Goal
from noiser.lm.prefix import Clean
from noiser.lm.runner import LanguageModel
from noiser.methods.gradients import Aggregation, aggregated, along, clean_gradient, distance
from noiser.methods.steps import Scored, Steps, measure
from noiser.registry import method


@method(
    "input_x_gradient",
    family="gradient",
    source="Denil et al. 2015, arXiv:1412.6815",
    cost="1 row of T tokens, forward and backward",
    along="goal",
)
def input_x_gradient(lm: LanguageModel, clean: Clean, goal: Goal, *, aggregation: Aggregation = "l2") -> Steps[Scored]:  # noqa: ARG001
    """Each token's embedding times the gradient of the explained quantity with respect to it.

    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0, higher matters more (the paper's);
                 sum: signed, the first-order change in the quantity if the embedding were to vanish.

    Source: Denil, Demiraj & de Freitas 2015, arXiv:1412.6815.
    """
    gradient = clean_gradient(clean, goal)
    if gradient is None:
        (found,) = yield from measure(goal, [Fade(0, along(np.ones(1), len(clean.prompt)))], weights=(1.0,))
        assert found.gradient is not None
        gradient = found.gradient
    return Scored(aggregated(gradient * distance(clean, None), aggregation))
