"""Integrated gradients."""

from noiser.lm.goal import Goal
from noiser.lm.prefix import Clean
from noiser.lm.runner import LanguageModel
from noiser.methods.gradients import Aggregation, Baseline, aggregated, baseline_embeds, distance
from noiser.methods.quadrature import Path, Points, Tolerance, advice, integrate
from noiser.methods.steps import Scored, Steps
from noiser.registry import method

WIDE = 0.05
"""A completeness gap above this share of what is to be distributed is warned of."""


@method(
    "integrated_gradients",
    family="gradient",
    source="Sundararajan et al. 2017, arXiv:1703.01365",
    cost="steps + 1 rows of T tokens, forward and backward; adaptive: 9 for each stretch",
)
def integrated_gradients(
    lm: LanguageModel,
    clean: Clean,
    goal: Goal,
    *,
    steps: Points = "adaptive",
    tolerance: Tolerance = 0.01,
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
) -> Steps[Scored]:
    """Gradients along the straight path from a baseline to the prompt, integrated, times the distance.

    Before aggregation the contributions of all dimensions of all tokens add up to the explained quantity less its value
    at the baseline; `notes["completeness_gap"]` is by how much they miss it, in units of the quantity.

    steps        a number of Gauss-Legendre points (50 in Captum and Inseq); adaptive: stretches of the path are halved
                 where their contributions miss the change in the quantity.
    tolerance    for adaptive: by how much a stretch may miss it, as a share of the change over the whole path.
    baseline     zero: zero embeddings; unk: the embedding of the tokenizer's unknown token everywhere (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed, complete.

    Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365.
    """
    start = baseline_embeds(lm, clean, baseline)
    (found,) = yield from integrate(goal, [Path(0, distance(clean, start), start)], steps, tolerance)
    notes = completeness(float(found.product.sum()), goal.value, found.at_baseline, advice(steps, baseline))
    return Scored(aggregated(found.product, aggregation), {**notes, "points": found.points})


def completeness(total: float, value: float, at_baseline: float, hint: str) -> dict[str, object]:
    """Notes on how far contributions are from adding up to what they should."""
    gap = total - (value - at_baseline)
    missed = f"The contributions miss what they should add up to, {value - at_baseline:.3g}, by {gap:.2g}: "
    wide = abs(gap) > WIDE * abs(value - at_baseline)
    warnings = [missed + hint] if wide else []
    return {"completeness_gap": gap, "baseline_value": at_baseline, "warnings": warnings}
