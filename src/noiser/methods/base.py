"""What a method needs: its return type, the units it may perturb, and the ways to ask the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from noiser.errors import OptionError
from noiser.lm.requests import Steps, ask
from noiser.lm.target import Measurement, measure
from noiser.text.prompt import Prompt
from noiser.text.units import Units, units

__all__ = ["Measurement", "MethodOutput", "Steps", "Unit", "ask", "measure", "units_to_perturb"]

Unit = Literal["token", "word", "sentence", "line", "turn"]


@dataclass(frozen=True, eq=False)
class MethodOutput:
    """The result of a method: one score for each token of the prompt, and notes about how they were computed."""

    scores: Float[np.ndarray, " seq"]
    notes: Mapping[str, Any] = field(default_factory=dict)


def units_to_perturb(prompt: Prompt, unit: Unit) -> Units:
    """The prompt's units of this kind. Raises OptionError if there are none."""
    found = units(prompt, unit)
    if not found.texts:
        raise OptionError(f"this prompt has no {unit}s to perturb: use unit=token")
    return found
