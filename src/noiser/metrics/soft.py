"""What Soft-NS and Soft-NC have in common: embeddings thinned by the scores, and how far the prediction moves."""

import math
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float

from noiser.lm.perturbation import PerturbedRows
from noiser.lm.requests import Steps, ask
from noiser.metrics.protocols import Protocol, keep_probabilities, shares
from noiser.metrics.sample import MetricContext, ScoresToEvaluate, Value
from noiser.registry import Range, metric

Distance = Literal["hellinger", "probability"]
Masks = Annotated[int, Range(1, 100_000)]
NOTHING = 1e-5
"""A distance between the clean and the zero pass that rounding alone can make, in float32."""
UNDEFINED = {
    "hellinger": "the prediction without any input is the prediction itself (d0 = 0)",
    "probability": "the target is no less probable without any input (d0 = 0)",
}


def soft(
    sample: MetricContext, candidate: ScoresToEvaluate, retained: bool, protocol: Protocol, distance: Distance, masks: int, seed: int
) -> Steps[Value]:
    """Normalised sufficiency (`retained`) or comprehensiveness, mask by mask, and their mean."""
    keep = keep_probabilities(protocol, candidate.scores, candidate.paper_normalization, masks)
    edits = (sample.zero(), sample.thinned(keep, retained, seed))
    clean, measure = (sample.clean, sample.hellinger()) if distance == "hellinger" else (sample.branch.clean, sample.branch.logit_fn)
    zero, thinned = yield from ask([PerturbedRows(clean, edit, measure) for edit in edits])
    full, moved = (_moved(np.array(reading.values), sample.goal.value, distance) for reading in (zero, thinned))
    if full[0] <= NOTHING:
        return Value(None, {"d0": float(full[0])}, UNDEFINED[distance])
    if protocol == "official" and distance == "hellinger":
        full, moved = _released(full), _released(moved)
    full = float(full[0])
    values = np.maximum(0, full - moved) / full if retained else moved / full
    detail = {"d0": full, "masks": values.tolist()}
    if protocol in ("matched", "proportional"):
        detail["shares"] = shares(masks).tolist()
    return Value(float(values.mean()), detail)


def _moved(read: Float[np.ndarray, " rows"], value: float, distance: Distance) -> Float[np.ndarray, " rows"]:
    """How far each row is from the clean run."""
    return np.maximum(0, value - read) if distance == "probability" else read


def _released(distance: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """The released code leaves the root out of Hellinger's distance, and divides by sqrt(2)."""
    return math.sqrt(2) * distance**2


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
    sample: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    protocol: Protocol = "matched",
    distance: Distance = "hellinger",
    masks: Masks = 16,
    seed: int = 0,
) -> Steps[Value]:
    """Soft normalised sufficiency: `max(0, d0 - d) / d0`, mean over the masks; in [0, 1], higher is better.

    `d` is how far the prediction moves when each element of token i's embedding is kept with a probability made of its
    score, `d0` how far it moves when every embedding is zero. Undefined where d0 is 0.

    protocol  how scores become probabilities, see `noiser.metrics.protocols`: matched: by their order, area over all
              budgets; proportional: by their proportions, likewise; paper: as shares of mass; official: as the released
              code does, which also leaves out the root of the Hellinger distance.
    distance  hellinger: between the next token's distributions; probability: the loss in the target's probability, at least 0.
    masks     random masks, shared by all methods; under matched and proportional each has a budget of its own.

    Source: Zhao & Aletras 2023, arXiv:2305.10496; Ghasemi Madani et al. 2025, arXiv:2504.02911, section 4.3 and appendix A.
    """
    return soft(sample, candidate, True, protocol, distance, masks, seed)


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
    sample: MetricContext,
    candidate: ScoresToEvaluate,
    *,
    protocol: Protocol = "matched",
    distance: Distance = "hellinger",
    masks: Masks = 16,
    seed: int = 0,
) -> Steps[Value]:
    """Soft normalised comprehensiveness: `d / d0`, mean over the masks; at least 0, higher is better.

    `d` is how far the prediction moves when each element of token i's embedding is taken away with a probability made of
    its score, `d0` how far it moves when every embedding is zero; above 1 where taking a part moves it further than taking
    all. Undefined where d0 is 0.

    protocol  how scores become probabilities, see `noiser.metrics.protocols`: matched: by their order, area over all
              budgets; proportional: by their proportions, likewise; paper: as shares of mass; official: as the released
              code does, which also leaves out the root of the Hellinger distance.
    distance  hellinger: between the next token's distributions; probability: the loss in the target's probability, at least 0.
    masks     random masks, shared by all methods and with Soft-NS: what that keeps is what this takes away.

    Source: Zhao & Aletras 2023, arXiv:2305.10496; Ghasemi Madani et al. 2025, arXiv:2504.02911, section 4.3 and appendix A.
    """
    return soft(sample, candidate, False, protocol, distance, masks, seed)
