"""What a method needs: its return type, the units it may perturb, and the ways to ask the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from noiser.errors import OptionError
from noiser.lm.measure import Measurement, measure, measure_ahead
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.requests import Steps, ask
from noiser.text.prompt import Prompt
from noiser.text.units import Units, units

__all__ = [
    "Baseline",
    "Measurement",
    "MethodOutput",
    "Steps",
    "Unit",
    "ask",
    "baseline_embeds",
    "keep_units",
    "measure",
    "measure_ahead",
    "units_to_perturb",
]

Unit = Literal["token", "word", "sentence", "line", "paragraph", "turn", "span", "auto"]
"""What is perturbed together. `auto`: as fine as a budget allows, see `noiser.attribution.refine`; no method does that by itself."""
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
    if unit == "auto":
        raise OptionError("unit=auto needs a budget: noiser attribute --budget, or attribute(..., budget=50000)")
    found = units(prompt, unit)
    if not found.texts:
        raise OptionError(f"this prompt has no {unit}s to perturb: use unit=token")
    return found


def baseline_embeds(lm: LanguageModel, prompt: Prompt, baseline: Baseline) -> Float[Tensor, "seq dim"] | None:
    """The embedding of an absent token at each position. None: zeros; `unk`: that of the unknown token (as in Inseq)."""
    if baseline == "zero":
        return None
    return lm.embeddings([lm.tokens.unknown]).expand(len(prompt), -1)


def keep_units(units: Units, present: Bool[np.ndarray, "rows units"], replacement: Float[Tensor, "seq dim"] | None) -> Interpolate:
    """Rows in which these units are present and the others replaced: by zeros, or by the embeddings given for each position.

    A token without a unit is always present.
    """
    padded = np.concatenate([present, np.ones((len(present), 1), dtype=bool)], axis=1)
    share = padded[:, [-1 if unit is None else unit for unit in units.of]].astype(np.float32)
    return Interpolate(0, torch.from_numpy(share), replacement)
