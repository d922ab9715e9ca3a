"""What a method returns, and how it asks the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from noiser.lm.steps import Measured, Steps, ask, measure

__all__ = ["Measured", "Scored", "Steps", "ask", "measure"]


@dataclass(frozen=True, eq=False)
class Scored:
    """What a method returns: one score for each token of the prompt, and what it noted on the way."""

    scores: Float[np.ndarray, " seq"]
    notes: Mapping[str, Any] = field(default_factory=dict)
