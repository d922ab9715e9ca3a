"""LIME for text: a linear model of the explained quantity when units are missing."""

from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import Baseline, MethodOutput, Steps, Unit, baseline_embeds, measure, units_to_perturb
from noiser.methods.jackknife import ridge_stderr
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
    objective: Objective,
    *,
    samples: Annotated[int, Range(2, 1_000_000)] = 200,
    keep: Annotated[float, Range(0.0, 1.0)] = 0.5,
    width: Annotated[float, Range(0.01, 100.0)] = 0.25,
    alpha: Annotated[float, Range(0.0, 1e6)] = 0.01,
    unit: Unit = "token",
    baseline: Baseline = "zero",
    seed: int = 0,
) -> Steps[MethodOutput]:
    """Coefficients of a ridge regression of the explained quantity on the presence of each unit. Signed, in its units.

    `stderr` is the jackknife's over the random subsets. It needs more subsets than units.

    samples   random subsets of the units, the first of which is the whole prompt; use at least twice the number of units.
    keep      probability that a unit stays.
    width     of the kernel exp(-(d / width)^2 / 2) that weighs a subset by its cosine distance d to the whole prompt.
    alpha     the ridge penalty; a large one shrinks all coefficients towards 0.
    unit      what is present or missing as a whole; a unit's coefficient is divided evenly among its tokens.
    baseline  replaces a missing token: zero: a zero embedding; unk: the embedding of the tokenizer's unknown token.

    Source: Ribeiro, Singh & Guestrin 2016, arXiv:1602.04938; kernel and ridge as in the authors' package.
    """
    units = units_to_perturb(clean.prompt, unit)
    present = generator(seed, clean.prompt.input_ids, "lime").random((samples, len(units.texts))) < keep
    present[0] = True
    subsets = Interpolate(0, _token_shares(present, units.of), baseline_embeds(lm, clean, baseline))
    (measurement,) = yield from measure(objective, [subsets])
    warnings = [] if samples >= 2 * len(units.texts) else [f"{samples} samples for {len(units.texts)} coefficients: raise samples."]
    coefficients, r2 = ridge(present, measurement.values, width, alpha)
    stderr, dof = ridge_stderr(present, measurement.values, kernel(present, width), alpha, fixed=1)
    errors = (None, None) if stderr is None else (units.spread(stderr), dof)
    return MethodOutput(units.spread(coefficients), {"r2": r2, "warnings": warnings}, *errors)


def kernel(present: Bool[np.ndarray, "samples units"], width: float) -> Float[np.ndarray, " samples"]:
    """The weight of each subset: 1 for the whole prompt, less for a smaller one."""
    cosine_distance = 1 - np.sqrt(present.mean(-1))
    return np.exp(-((cosine_distance / width) ** 2) / 2)


def ridge(
    present: Bool[np.ndarray, "samples units"], values: Float[np.ndarray, " samples"], width: float, alpha: float
) -> tuple[Float[np.ndarray, " units"], float]:
    """The coefficients, and the share of the weighted variance that they explain (R^2, at most 1)."""
    weight = kernel(present, width)
    features = present.astype(np.float64)
    centred = features - np.average(features, axis=0, weights=weight)  # centred, so that the intercept is not shrunk
    residual = values - np.average(values, weights=weight)
    root = np.sqrt(weight)
    rows = np.concatenate([centred * root[:, None], np.sqrt(alpha) * np.eye(present.shape[1])])
    coefficients = np.linalg.lstsq(rows, np.concatenate([residual * root, np.zeros(present.shape[1])]), rcond=None)[0]
    variance, unexplained = (float(np.average(deviation**2, weights=weight)) for deviation in (residual, residual - centred @ coefficients))
    return coefficients, 1 - unexplained / variance if variance > 0 else 1.0


def _token_shares(present: Bool[np.ndarray, "samples units"], of: tuple[int | None, ...]) -> Float[torch.Tensor, "samples seq"]:
    """1 for a present token. A token without a unit is always present."""
    padded = np.concatenate([present, np.ones((len(present), 1), dtype=bool)], axis=1)
    return torch.from_numpy(padded[:, [-1 if unit is None else unit for unit in of]].astype(np.float32))
