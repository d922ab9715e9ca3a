"""Sequential integrated gradients: a path of its own for each token."""

from typing import Any

import numpy as np
from jaxtyping import Float

from noiser.lm.goal import Goal
from noiser.lm.prefix import Clean
from noiser.lm.runner import LanguageModel
from noiser.methods.gradients import Aggregation, Baseline, aggregated, baseline_embeds, distance
from noiser.methods.quadrature import Path, Points, Tolerance, advice, integrate
from noiser.methods.steps import Scored, Steps
from noiser.registry import method

WIDE = 0.2
"""A gap above this share of the largest change is warned of."""


@method(
    "sequential_integrated_gradients",
    family="gradient",
    source="Enguehard 2023, arXiv:2305.15853",
    cost="T x (steps + 1) rows of T/2 tokens, forward and backward; adaptive: 9 for each stretch",
)
def sequential_integrated_gradients(
    lm: LanguageModel,
    clean: Clean,
    goal: Goal,
    *,
    steps: Points = "adaptive",
    tolerance: Tolerance = 0.1,
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
) -> Steps[Scored]:
    """Integrated gradients for one token at a time, all others left as they are.

    Summed over the dimensions, a token's contribution is the quantity less its value with that token's embedding at the
    baseline, which is what occlusion measures; `notes["completeness_gaps"]` is by how much each token misses it. On the
    first token, whose zero embedding many models answer to with a jump, it can be much.

    steps        a number of Gauss-Legendre points for each token (50 in Inseq); adaptive: stretches of a token's path are
                 halved where their contributions miss the change in the quantity.
    tolerance    for adaptive: by how much a stretch may miss it, as a share of the largest change for any token.
    baseline     zero: a zero embedding; unk: the embedding of the tokenizer's unknown token (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed.

    Source: Enguehard 2023, arXiv:2305.15853.
    """
    start = baseline_embeds(lm, clean, baseline)
    away = distance(clean, start)
    paths = [Path(token, away[[token]], None if start is None else start[[token]]) for token in range(len(clean.prompt))]
    found = yield from integrate(goal, paths, steps, tolerance)
    product = np.concatenate([each.product for each in found])
    wanted = goal.value - np.array([each.at_baseline for each in found])
    notes = _completeness(clean, product.sum(-1), wanted, advice(steps, baseline))
    return Scored(aggregated(product, aggregation), {**notes, "points": [each.points for each in found]})


def _completeness(clean: Clean, found: Float[np.ndarray, " seq"], wanted: Float[np.ndarray, " seq"], hint: str) -> dict[str, Any]:
    """Notes on how far each token's contribution is from the change in the quantity that it should be."""
    gaps = found - wanted
    wide = np.flatnonzero(np.abs(gaps) > WIDE * np.abs(wanted).max())
    named = ", ".join(f"{clean.prompt.tokens[token]!r} by {gaps[token]:+.2g}" for token in wide[:3])
    missed = f"{len(wide)} of {len(gaps)} tokens miss the change that theirs should add up to, {named}: "
    warnings = [missed + hint] if len(wide) else []
    return {"completeness_gaps": gaps.tolist(), "warnings": warnings}
