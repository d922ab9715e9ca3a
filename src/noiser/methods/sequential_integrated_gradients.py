"""Sequential integrated gradients: a path of its own for each token."""

from typing import Annotated

import numpy as np

from noiser.lm.edit import Fade
from noiser.lm.goal import Goal
from noiser.lm.prefix import Clean
from noiser.lm.runner import LanguageModel
from noiser.methods.gradients import Aggregation, Baseline, aggregated, along, baseline_embeds, distance, path
from noiser.methods.steps import Scored, Steps, measure
from noiser.registry import Range, method


@method(
    "sequential_integrated_gradients",
    family="gradient",
    source="Enguehard 2023, arXiv:2305.15853",
    cost="T x steps rows of T/2 tokens, forward and backward",
)
def sequential_integrated_gradients(
    lm: LanguageModel,
    clean: Clean,
    goal: Goal,
    *,
    steps: Annotated[int, Range(1, 10_000)] = 50,
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
) -> Steps[Scored]:
    """Integrated gradients for one token at a time, all others left as they are.

    Summed over the dimensions, a token's contribution is the quantity less its value with that token's embedding at the
    baseline, so `aggregation="sum"` is what occlusion measures, up to the error of the quadrature.

    steps        points of the Gauss-Legendre quadrature for each token.
    baseline     zero: a zero embedding; unk: the embedding of the tokenizer's unknown token (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed.

    Source: Enguehard 2023, arXiv:2305.15853.
    """
    points, weights = path(steps)
    start = baseline_embeds(lm, clean, baseline)
    shares = along(points, 1)
    edits = [Fade(token, shares, None if start is None else start[token : token + 1]) for token in range(len(clean.prompt))]
    found = yield from measure(goal, edits, weights=weights)
    gradient = np.concatenate([each.gradient for each in found if each.gradient is not None])
    return Scored(aggregated(gradient * distance(clean, start), aggregation))
