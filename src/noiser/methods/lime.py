"""LIME for text: a linear model of what the language model says when tokens go missing."""

from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, Unit, measure, units_to_perturb
from noiser.methods.gradients import Baseline, baseline_embeds
from noiser.registry import Range, method
from noiser.rng import generator


@method(
    "lime",
    family="perturbation",
    source="Ribeiro et al. 2016, arXiv:1602.04938",
    cost="samples rows of T tokens",
)
def lime(
    lm: LanguageModel,
    clean: CleanRun,
    goal: Objective,
    *,
    samples: Annotated[int, Range(2, 1_000_000)] = 200,
    keep: Annotated[float, Range(0.0, 1.0)] = 0.5,
    width: Annotated[float, Range(0.01, 100.0)] = 0.25,
    alpha: Annotated[float, Range(0.0, 1e6)] = 0.01,
    unit: Unit = "token",
    baseline: Baseline = "zero",
    seed: int = 0,
) -> Steps[MethodOutput]:
    """Coefficients of a ridge regression of the explained quantity on which tokens are there. Signed, in its units.

    samples   random subsets of the tokens, the whole prompt being the first; more than twice the number of units is wise.
    keep      probability that a unit stays.
    width     of the kernel exp(-(d / width)^2 / 2) that weighs a subset by its cosine distance d to the whole prompt.
    alpha     the ridge penalty; with a large one all coefficients shrink towards 0.
    unit      what comes and goes as a whole; a unit's coefficient is divided evenly among its tokens.
    baseline  what stands for a missing token: zero: a zero embedding; unk: that of the tokenizer's unknown token.

    Source: Ribeiro, Singh & Guestrin 2016, arXiv:1602.04938; kernel and ridge as in the authors' own package.
    """
    parts = units_to_perturb(clean.prompt, unit)
    present = generator(seed, clean.prompt.input_ids, "lime").random((samples, len(parts.texts))) < keep
    present[0] = True
    (found,) = yield from measure(goal, [Interpolate(0, _shares(present, parts.of), baseline_embeds(lm, clean, baseline))])
    warnings = [] if samples >= 2 * len(parts.texts) else [f"{samples} samples for {len(parts.texts)} coefficients: raise samples."]
    coefficients, fit = ridge(present, found.values, width, alpha)
    return MethodOutput(parts.spread(coefficients), {"r2": fit, "warnings": warnings})


def ridge(
    present: Bool[np.ndarray, "samples units"], values: Float[np.ndarray, " samples"], width: float, alpha: float
) -> tuple[Float[np.ndarray, " units"], float]:
    """The coefficients, and how much of the weighted variance they explain (R^2, at most 1)."""
    away = 1 - np.sqrt(present.mean(-1))
    weight = np.exp(-((away / width) ** 2) / 2)
    features = present.astype(np.float64)
    centred = features - np.average(features, axis=0, weights=weight)  # so the intercept is not shrunk
    left = values - np.average(values, weights=weight)
    root, units = np.sqrt(weight), present.shape[1]
    rows = np.concatenate([centred * root[:, None], np.sqrt(alpha) * np.eye(units)])
    coefficients = np.linalg.lstsq(rows, np.concatenate([left * root, np.zeros(units)]), rcond=None)[0]
    spread, missed = (float(np.average(each**2, weights=weight)) for each in (left, left - centred @ coefficients))
    return coefficients, 1 - missed / spread if spread > 0 else 1.0


def _shares(present: Bool[np.ndarray, "samples units"], of: tuple[int | None, ...]) -> Float[torch.Tensor, "samples seq"]:
    """1 where a token is there; tokens of no unit always are."""
    padded = np.concatenate([present, np.ones((len(present), 1), dtype=bool)], axis=1)
    return torch.from_numpy(padded[:, [-1 if unit is None else unit for unit in of]].astype(np.float32))
