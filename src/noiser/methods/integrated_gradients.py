"""Integrated gradients."""

from typing import Annotated

import numpy as np

from noiser.lm.edit import Fade
from noiser.lm.goal import Goal
from noiser.lm.prefix import Clean
from noiser.lm.runner import LanguageModel
from noiser.methods.gradients import Aggregation, Baseline, aggregated, along, baseline_embeds, distance, path
from noiser.methods.steps import Scored, Steps, measure
from noiser.registry import Range, method

WIDE = 0.05
"""A completeness gap above this share of what is to be distributed is warned of."""


@method(
    "integrated_gradients",
    family="gradient",
    source="Sundararajan et al. 2017, arXiv:1703.01365",
    cost="(steps + 1) rows of T tokens, forward and backward",
)
def integrated_gradients(
    lm: LanguageModel,
    clean: Clean,
    goal: Goal,
    *,
    steps: Annotated[int, Range(1, 10_000)] = 50,
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
) -> Steps[Scored]:
    """Gradients along the straight path from a baseline to the prompt, integrated, times the distance.

    Before aggregation the contributions of all dimensions of all tokens add up to the explained quantity less its value
    at the baseline; `notes["completeness_gap"]` is by how much they miss it, in units of the quantity.

    steps        points of the Gauss-Legendre quadrature.
    baseline     zero: zero embeddings; unk: the embedding of the tokenizer's unknown token everywhere (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed, complete.

    Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365.
    """
    points, weights = path(steps)
    start = baseline_embeds(lm, clean, baseline)
    shares = along(np.append(points, 0.0), len(clean.prompt))
    (found,) = yield from measure(goal, [Fade(0, shares, start)], weights=(*weights, 0.0))
    assert found.gradient is not None
    product = found.gradient * distance(clean, start)
    return Scored(aggregated(product, aggregation), completeness(float(product.sum()), goal.value, float(found.values[-1])))


def completeness(total: float, value: float, at_baseline: float) -> dict[str, object]:
    """Notes on how far contributions are from adding up to what they should."""
    gap = total - (value - at_baseline)
    warnings = []
    if abs(gap) > WIDE * abs(value - at_baseline):
        warnings = [f"The contributions miss what they should add up to, {value - at_baseline:.3g}, by {gap:.2g}: raise steps."]
    return {"completeness_gap": gap, "baseline_value": at_baseline, "warnings": warnings}
