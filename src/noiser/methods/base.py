"""What a method needs: its return type, the units it may perturb, and the ways to ask the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from noiser.errors import OptionError
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.requests import Steps, ask
from noiser.lm.target import Measurement, measure
from noiser.text.prompt import Prompt
from noiser.text.units import Units, units

__all__ = ["Baseline", "Measurement", "MethodOutput", "Steps", "Unit", "ask", "baseline_embeds", "measure", "units_to_perturb"]

Unit = Literal["token", "word", "sentence", "line", "turn"]
Baseline = Literal["zero", "unk"]


@dataclass(frozen=True, eq=False)
class MethodOutput:
    """The result of a method: one score for each token of the prompt, notes about how they were computed, and their standard errors."""

    scores: Float[np.ndarray, " seq"]
    notes: Mapping[str, Any] = field(default_factory=dict)
    stderr: Float[np.ndarray, " seq"] | None = None
    """Standard error of each score, from the method's own random draws, in the units of the scores, at least 0. None: the method draws
    nothing at random, or too few draws to tell."""
    dof: int | None = None
    """Degrees of freedom of `stderr`, for Student's t: the number of independent draws minus 1, for a mean. None: many."""


def units_to_perturb(prompt: Prompt, unit: Unit) -> Units:
    """The prompt's units of this kind. Raises OptionError if there are none."""
    found = units(prompt, unit)
    if not found.texts:
        raise OptionError(f"this prompt has no {unit}s to perturb: use unit=token")
    return found


def baseline_embeds(lm: LanguageModel, clean: CleanRun, baseline: Baseline) -> Float[Tensor, "seq dim"] | None:
    """The embedding of an absent token at each position. None: zeros; `unk`: that of the unknown token (as in Inseq)."""
    if baseline == "zero":
        return None
    return lm.embeddings([lm.tokens.unknown]).expand(len(clean.prompt), -1)
