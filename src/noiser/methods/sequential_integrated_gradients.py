"""Sequential integrated gradients: a path of its own for each token."""

from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from noiser.lm.edit import Fade
from noiser.lm.goal import Goal
from noiser.lm.prefix import Clean
from noiser.lm.runner import LanguageModel
from noiser.methods.gradients import Aggregation, Baseline, aggregated, along, baseline_embeds, distance, path
from noiser.methods.steps import Scored, Steps, measure
from noiser.registry import Range, method

WIDE = 0.05
"""A gap above this share of the largest change is warned of."""


@method(
    "sequential_integrated_gradients",
    family="gradient",
    source="Enguehard 2023, arXiv:2305.15853",
    cost="T x (steps + 1) rows of T/2 tokens, forward and backward",
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
    baseline, which is what occlusion measures; `notes["completeness_gaps"]` is by how much each token misses it. On the
    first token, whose zero embedding many models answer to with a jump, it can be much.

    steps        points of the Gauss-Legendre quadrature for each token.
    baseline     zero: a zero embedding; unk: the embedding of the tokenizer's unknown token (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed.

    Source: Enguehard 2023, arXiv:2305.15853.
    """
    points, weights = path(steps)
    start = baseline_embeds(lm, clean, baseline)
    shares = along(np.append(points, 0.0), 1)
    edits = [Fade(token, shares, None if start is None else start[token : token + 1]) for token in range(len(clean.prompt))]
    found = yield from measure(goal, edits, weights=(*weights, 0.0))
    product = np.concatenate([each.gradient for each in found if each.gradient is not None]) * distance(clean, start)
    wanted = goal.value - np.array([each.values[-1] for each in found])
    return Scored(aggregated(product, aggregation), _completeness(clean, product.sum(-1), wanted))


def _completeness(clean: Clean, found: Float[np.ndarray, " seq"], wanted: Float[np.ndarray, " seq"]) -> dict[str, Any]:
    """Notes on how far each token's contribution is from the change in the quantity that it should be."""
    gaps = found - wanted
    wide = np.flatnonzero(np.abs(gaps) > WIDE * np.abs(wanted).max())
    named = ", ".join(f"{clean.prompt.tokens[token]!r} by {gaps[token]:+.2g}" for token in wide[:3])
    sentence = f"{len(wide)} of {len(gaps)} tokens miss the change that theirs should add up to, {named}: raise steps, or baseline=unk."
    return {"completeness_gaps": gaps.tolist(), "warnings": [sentence] if len(wide) else []}
