"""Soft-NS and Soft-NC: embeddings lose elements according to the scores; how far does the prediction move?"""

import math
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float

from noiser.errors import NonFiniteError
from noiser.lm.perturbation import PerturbedRows
from noiser.lm.requests import Steps, ask
from noiser.metrics.sample import MetricContext, ScoresToEvaluate, Value
from noiser.registry import PaperNormalization, Range, metric
from noiser.results.scores import normalize

Protocol = Literal["matched", "proportional", "paper", "official"]
Scores = Float[np.ndarray, " seq"]
Keep = Float[np.ndarray, "masks seq"]
TINY = 1e-200
"""A smaller share of the largest score counts as 0, so that no sum underflows."""


def shares(masks: int) -> Float[np.ndarray, " masks"]:
    """The mean keep-probability of mask m of 1 to `masks`: `(m - 1/2) / masks`, the midpoint rule for the area over (0, 1)."""
    return (np.arange(masks) + 0.5) / masks


def keep_probabilities(protocol: Protocol, scores: Scores, normalization: PaperNormalization, masks: int) -> Keep:
    """The probability, in [0, 1], with which each mask keeps an element of each token's embedding.

    matched       only the order of the scores counts: `matched` at each of `shares(masks)`.
    proportional  the positive scores, scaled so that their mean is each share: `proportional`.
    paper         the scores as shares of attribution mass (`clip_l1`), the same in every mask.
    official      the scores as the released code normalises them, clipped to [0, 1], the same in every mask.
    """
    if protocol == "matched":
        return np.stack([matched(scores, share) for share in shares(masks)])
    if protocol == "proportional":
        return np.stack([proportional(scores, share) for share in shares(masks)])
    keep = normalize(scores[None], "clip_l1")[0] if protocol == "paper" else paper_normalized(scores, normalization)
    return np.tile(keep.clip(0, 1), (masks, 1))


def matched(scores: Scores, share: float) -> Scores:
    """A linear ramp over the ranks, inside [0, 1], with a mean of exactly `share`. Ties get the mean of their ranks."""
    from scipy.stats import rankdata

    rank = (rankdata(-scores) - 0.5) / len(scores)
    return 2 * share * (1 - rank) if share <= 0.5 else 1 - 2 * (1 - share) * rank


def proportional(scores: Scores, share: float) -> Scores:
    """`min(1, a * max(score, 0))`, with `a` such that the mean is `share`. Source: Huang & Chan 2026, arXiv:2601.03089.

    If the mean is too small even with all tokens of positive score kept whole, the other tokens share the rest evenly.
    """
    mass = scores.clip(min=0) / max(scores.max(), np.finfo(float).tiny)
    mass[mass < TINY] = 0
    size, positive = len(scores), mass > 0
    budget, count = share * size, int(positive.sum())
    if budget >= count:
        return np.where(positive, 1.0, (budget - count) / max(1, size - count))
    order = np.argsort(-mass, kind="stable")[:count]
    remaining = np.cumsum(mass[order][::-1])[::-1]
    spread = (budget - np.arange(count)) * mass[order] / remaining
    whole = int(np.argmax(spread <= 1))
    keep = np.zeros(size)
    keep[order] = np.where(np.arange(count) < whole, 1.0, (budget - whole) * mass[order] / remaining[whole])
    return keep


def paper_normalized(scores: Scores, normalization: PaperNormalization) -> Scores:
    """The scores as the authors' released code normalises them. Raises NonFiniteError if it would divide by 0."""
    if normalization != "signed_sum":
        return normalize(scores[None], normalization)[0]
    total = scores.sum()
    if total == 0:
        raise NonFiniteError("protocol=official divides the scores by their sum, which is 0 here: use protocol=matched")
    return scores / total


Distance = Literal["hellinger", "probability"]
Masks = Annotated[int, Range(1, 100_000)]
NO_DISTANCE = 1e-5
"""A distance between the clean run and the run without input that float32 rounding alone can cause."""
UNDEFINED = {
    "hellinger": "the prediction without any input is the prediction itself (d0 = 0)",
    "probability": "the target is no less probable without any input (d0 = 0)",
}


@metric(
    "soft_ns",
    source="Zhao & Aletras 2023, arXiv:2305.10496; Ghasemi Madani et al. 2025, arXiv:2504.02911, section 4.3",
    better="higher",
    relative=True,
    measures="how much of the prediction survives when each token keeps a part of its embedding according to its score",
    failure_mode="scale: under paper and official keeping more is enough to win (`constant` does); under matched only the order counts",
    cost="masks rows of T tokens",
)
def soft_ns(
    context: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    protocol: Protocol = "matched",
    distance: Distance = "hellinger",
    masks: Masks = 16,
    seed: int = 0,
) -> Steps[Value]:
    """Soft normalised sufficiency: `max(0, d0 - d) / d0`, mean over the masks; in [0, 1], higher is better.

    `d` is how far the prediction moves when each element of a token's embedding is kept with a probability that depends on the
    token's score. `d0` is how far it moves when every embedding is zero. Undefined if d0 is 0.

    protocol  how scores become probabilities, see `noiser.metrics.soft`. matched: by their order, averaged over all budgets.
              proportional: by their proportions, averaged over all budgets. paper: as shares of mass. official: as the released
              code does, which also leaves out the root of the Hellinger distance.
    distance  hellinger: between the next token's distributions. probability: the loss in the target's probability, at least 0.
    masks     the number of random masks, the same for all methods. With matched and proportional each mask has its own budget.

    Source: Zhao & Aletras 2023, arXiv:2305.10496; Ghasemi Madani et al. 2025, arXiv:2504.02911, section 4.3 and appendix A.
    """
    return _soft(context, candidate, True, protocol, distance, masks, seed)


@metric(
    "soft_nc",
    source="Zhao & Aletras 2023, arXiv:2305.10496; Ghasemi Madani et al. 2025, arXiv:2504.02911, section 4.3",
    better="higher",
    relative=True,
    measures="how far the prediction moves when each token loses a part of its embedding according to its score",
    failure_mode="scale: under paper and official taking more away is enough to win (`constant` does); under matched only the order counts",
    cost="masks rows of T tokens",
)
def soft_nc(
    context: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    protocol: Protocol = "matched",
    distance: Distance = "hellinger",
    masks: Masks = 16,
    seed: int = 0,
) -> Steps[Value]:
    """Soft normalised comprehensiveness: `d / d0`, mean over the masks; at least 0, higher is better.

    `d` is how far the prediction moves when each element of a token's embedding is removed with a probability that depends on the
    token's score. `d0` is how far it moves when every embedding is zero. The value is above 1 if removing a part moves the
    prediction further than removing everything. Undefined if d0 is 0.

    protocol  how scores become probabilities, see `noiser.metrics.soft`. matched: by their order, averaged over all budgets.
              proportional: by their proportions, averaged over all budgets. paper: as shares of mass. official: as the released
              code does, which also leaves out the root of the Hellinger distance.
    distance  hellinger: between the next token's distributions. probability: the loss in the target's probability, at least 0.
    masks     the number of random masks, the same for all methods and for Soft-NS: what Soft-NS keeps, Soft-NC removes.

    Source: Zhao & Aletras 2023, arXiv:2305.10496; Ghasemi Madani et al. 2025, arXiv:2504.02911, section 4.3 and appendix A.
    """
    return _soft(context, candidate, False, protocol, distance, masks, seed)


def _soft(
    context: MetricContext, candidate: ScoresToEvaluate, retained: bool, protocol: Protocol, distance: Distance, masks: int, seed: int
) -> Steps[Value]:
    """Normalised sufficiency (`retained`) or comprehensiveness of each mask, and their mean."""
    keep = keep_probabilities(protocol, candidate.scores, candidate.paper_normalization, masks)
    perturbations = (context.zero(), context.thinned(keep, retained, seed))
    if distance == "hellinger":
        clean, logit_fn = context.clean, context.hellinger()
    else:
        clean, logit_fn = context.branch.clean, context.branch.logit_fn
    zero, thinned = yield from ask([PerturbedRows(clean, perturbation, logit_fn) for perturbation in perturbations])
    full, moved = (_distance(np.array(readout.values), context.objective.value, distance) for readout in (zero, thinned))
    if full[0] <= NO_DISTANCE:
        return Value(None, {"d0": float(full[0])}, UNDEFINED[distance])
    if protocol == "official" and distance == "hellinger":
        full, moved = _paper_hellinger(full), _paper_hellinger(moved)
    full = float(full[0])
    values = np.maximum(0, full - moved) / full if retained else moved / full
    detail = {"d0": full, "masks": values.tolist()}
    if protocol in ("matched", "proportional"):
        detail["shares"] = shares(masks).tolist()
    return Value(float(values.mean()), detail)


def _distance(values: Float[np.ndarray, " rows"], clean_value: float, distance: Distance) -> Float[np.ndarray, " rows"]:
    """How far each row is from the clean run."""
    return np.maximum(0, clean_value - values) if distance == "probability" else values


def _paper_hellinger(distance: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """The released code leaves out the root of the Hellinger distance and divides by sqrt(2)."""
    return math.sqrt(2) * distance**2
