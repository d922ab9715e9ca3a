"""What Soft-NS and Soft-NC have in common: embeddings thinned by the scores, and how far the prediction moves."""

import math
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float

from noiser.lm.probe import Probe
from noiser.lm.steps import Steps, ask
from noiser.metrics.protocols import Protocol, keep_probabilities, shares
from noiser.metrics.sample import Candidate, Sample, Value
from noiser.registry import Range

Distance = Literal["hellinger", "probability"]
Masks = Annotated[int, Range(1, 100_000)]
NOTHING = 1e-5
"""A distance between the clean and the zero pass that rounding alone can make, in float32."""
UNDEFINED = {
    "hellinger": "the prediction without any input is the prediction itself (d0 = 0)",
    "probability": "the target is no less probable without any input (d0 = 0)",
}


def soft(
    sample: Sample, candidate: Candidate, retained: bool, protocol: Protocol, distance: Distance, masks: int, seed: int
) -> Steps[Value]:
    """Normalised sufficiency (`retained`) or comprehensiveness, mask by mask, and their mean."""
    keep = keep_probabilities(protocol, candidate.scores, candidate.released, masks)
    edits = (sample.zero(), sample.thinned(keep, retained, seed))
    clean, measure = (sample.clean, sample.hellinger()) if distance == "hellinger" else (sample.branch.clean, sample.branch.measure)
    zero, thinned = yield from ask([Probe(clean, edit, measure) for edit in edits])
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
