"""What a method returns, and how it asks the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from noiser.errors import OptionError
from noiser.lm.requests import Steps, ask
from noiser.lm.target import Measured, measure
from noiser.text.prompt import Prompt
from noiser.text.units import Units, units

Unit = Literal["token", "word", "sentence", "line", "turn"]


def units_to_perturb(prompt: Prompt, unit: Unit) -> Units:
    """The prompt's units. Raises OptionError where it has none."""
    found = units(prompt, unit)
    if not found.texts:
        raise OptionError(f"this prompt has no {unit}s to perturb: use unit=token")
    return found


__all__ = ["Measured", "MethodOutput", "Steps", "ask", "measure"]


@dataclass(frozen=True, eq=False)
class MethodOutput:
    """What a method returns: one score for each token of the prompt, and what it noted on the way."""

    scores: Float[np.ndarray, " seq"]
    notes: Mapping[str, Any] = field(default_factory=dict)
