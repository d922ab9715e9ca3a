"""LIME for text: a linear model of the explained quantity when units are missing."""

from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Float

from noiser.errors import OptionError
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.target import Objective
from noiser.methods.base import Baseline, MethodOutput, Steps, Unit, baseline_embeds, keep_units, measure, units_to_perturb
from noiser.methods.coalitions import paired_coalitions
from noiser.methods.uncertainty import ridge_stderr
from noiser.registry import Range, method
from noiser.rng import generator
from noiser.text.units import Units

Prior = Literal["ridge", "lasso"]
WIDTH = 0.25
SWEEPS, TOLERANCE = 10_000, 1e-9
"""Coordinate descent ends after so many rounds over the units, or when no coefficient moves by more than this share of the deviation of the
values."""


def _check(*, prior: str, pairs: bool, keep: float, width: float, alpha: float) -> None:
    if pairs and keep != 0.5:
        raise OptionError(f"lime: pairs=true draws every subset with the same probability, which is keep=0.5; got keep={keep:g}")
    if prior == "lasso" and width != WIDTH:
        raise OptionError(f"lime: prior=lasso weighs all subsets the same, so it has no kernel: leave width out; got width={width:g}")
    if prior == "lasso" and alpha == 0:
        raise OptionError("lime: prior=lasso without a penalty has no single solution: give alpha above 0, or take prior=ridge")
    if prior == "lasso" and not 0 < keep < 1:
        raise OptionError(f"lime: prior=lasso needs subsets that differ: give keep between 0 and 1, such as 0.5; got keep={keep:g}")


@method(
    "lime",
    family="perturbation",
    source="Ribeiro et al. 2016, arXiv:1602.04938; prior=lasso: Cohen-Wang et al. 2024, arXiv:2409.00729",
    cost="samples rows of T tokens",
    changes="the embeddings of random sets of units are replaced by the baseline",
    check=_check,
    added=("pairs", "prior"),
)
def lime(
    lm: LanguageModel,
    clean: CleanRun,
    objective: Objective,
    *,
    samples: Annotated[int, Range(2, 1_000_000)] = 200,
    keep: Annotated[float, Range(0.0, 1.0)] = 0.5,
    width: Annotated[float, Range(0.01, 100.0)] = WIDTH,
    alpha: Annotated[float, Range(0.0, 1e6)] = 0.01,
    pairs: bool = False,
    prior: Prior = "ridge",
    unit: Unit = "token",
    baseline: Baseline = "zero",
    seed: int = 0,
) -> Steps[MethodOutput]:
    """Coefficients of a regression of the explained quantity on the presence of each unit. Signed, in its units.

    `stderr` is the jackknife's over the random subsets (with `pairs`, over the pairs). It needs more of them than units. With
    `prior=lasso` there is none: a coefficient that the penalty sets to 0 has no error that the jackknife could measure.

    samples   random subsets of the units; with prior=ridge the first is the whole prompt, and there should be at least twice as many as
              units.
    keep      probability that a unit stays.
    width     of the kernel exp(-(d / width)^2 / 2) that weighs a subset by its cosine distance d to the whole prompt; prior=ridge only.
    alpha     the penalty; a large one shrinks all coefficients towards 0, and with prior=lasso sets small ones to 0. There it is in the
              units of the explained quantity, so that its default is meant for log-probabilities and is large for small probabilities.
    pairs     true: each subset comes with its complement, and none comes twice. If there are no more subsets than `samples`, all are
              run, and nothing is left to chance.
    prior     ridge: squares are penalised, and subsets weighed by the kernel; lasso: sizes are penalised, and all subsets weigh the same
              (ContextCite's surrogate): few units get a score, and fewer samples than units may do.
    unit      what is present or missing as a whole; a unit's coefficient is divided evenly among its tokens.
    baseline  replaces a missing token: zero: a zero embedding; unk: the embedding of the tokenizer's unknown token.

    Source: Ribeiro, Singh & Guestrin 2016, arXiv:1602.04938; kernel and ridge as in the authors' package. prior=lasso: Cohen-Wang, Shah,
    Georgiev & Madry 2024, arXiv:2409.00729, which deletes text instead of embeddings and explains the logit of a probability.
    """
    units = units_to_perturb(clean.prompt, unit)
    present = draw_subsets(
        samples, len(units.texts), keep, pairs=pairs, whole=prior == "ridge", rng=generator(seed, clean.prompt.input_ids, "lime")
    )
    subsets = keep_units(units, present, baseline_embeds(lm, clean.prompt, baseline))
    (measurement,) = yield from measure(objective, [subsets])
    if prior == "lasso":
        return _sparse(units, present, measurement.values, alpha)
    share_read = len(present) / 2 ** len(units.texts) if pairs else 0.0
    enough = samples >= 2 * len(units.texts) or share_read == 1
    warnings = [] if enough else [f"{samples} samples for {len(units.texts)} coefficients: raise samples."]
    coefficients, r2 = ridge(present, measurement.values, width, alpha)
    group = 2 if pairs else 1  # the first group, of the whole prompt, is not drawn
    stderr, dof = ridge_stderr(present, measurement.values, kernel(present, width), alpha, group=group, fixed=group)
    known = stderr is not None and share_read < 1
    errors = (units.spread(stderr * np.sqrt(1 - share_read)), dof) if known else (None, None)
    return MethodOutput(units.spread(coefficients), {"r2": r2, "warnings": warnings}, *errors)


def _sparse(units: Units, present: Bool[np.ndarray, "samples units"], values: Float[np.ndarray, " samples"], alpha: float) -> MethodOutput:
    coefficients, r2 = lasso(present, values, alpha)
    warnings = []
    if not coefficients.any() and np.ptp(values) > 0:
        warnings = [f"alpha={alpha:g} is more than any unit explains, so all scores are 0: lower alpha, or explain quantity=log_prob."]
    return MethodOutput(units.spread(coefficients), {"r2": r2, "nonzero": int(np.count_nonzero(coefficients)), "warnings": warnings})


def kernel(present: Bool[np.ndarray, "samples units"], width: float) -> Float[np.ndarray, " samples"]:
    """The weight of each subset: 1 for the whole prompt, less for a smaller one."""
    cosine_distance = 1 - np.sqrt(present.mean(-1))
    return np.exp(-((cosine_distance / width) ** 2) / 2)


def draw_subsets(
    samples: int, units: int, keep: float, *, pairs: bool = False, whole: bool = True, rng: np.random.Generator
) -> Bool[np.ndarray, "samples units"]:
    """With `whole` the first subset is the whole prompt. With `pairs` it is too, and rows 2i and 2i + 1 are complements."""
    if pairs:
        return paired_coalitions(units, max(1, samples // 2), rng)
    present = rng.random((samples, units)) < keep
    if whole:
        present[0] = True
    return present


def _solve_ridge(rows: Float[np.ndarray, "samples units"], values: Float[np.ndarray, " samples"], alpha: float) -> np.ndarray:
    """argmin |rows x - values|^2 + alpha |x|^2. With more units than samples it is solved in the space of the samples."""
    samples, units = rows.shape
    if samples < units and alpha > 0:
        return rows.T @ np.linalg.solve(rows @ rows.T + alpha * np.eye(samples), values)
    stacked = np.concatenate([rows, np.sqrt(alpha) * np.eye(units)])
    return np.linalg.lstsq(stacked, np.concatenate([values, np.zeros(units)]), rcond=None)[0]


def ridge(
    present: Bool[np.ndarray, "samples units"], values: Float[np.ndarray, " samples"], width: float, alpha: float
) -> tuple[Float[np.ndarray, " units"], float]:
    """The coefficients, and the share of the weighted variance that they explain (R^2, at most 1)."""
    weight = kernel(present, width)
    features = present.astype(np.float64)
    centred = features - np.average(features, axis=0, weights=weight)  # centred, so that the intercept is not shrunk
    residual = values - np.average(values, weights=weight)
    root = np.sqrt(weight)
    coefficients = _solve_ridge(centred * root[:, None], residual * root, alpha)
    variance, unexplained = (float(np.average(deviation**2, weights=weight)) for deviation in (residual, residual - centred @ coefficients))
    return coefficients, 1 - unexplained / variance if variance > 0 else 1.0


def lasso(
    present: Bool[np.ndarray, "samples units"], values: Float[np.ndarray, " samples"], alpha: float
) -> tuple[Float[np.ndarray, " units"], float]:
    """The coefficients with the least |values - intercept - features b|^2 / (2 samples) + alpha |b|_1, where each feature has mean 0 and
    deviation 1, turned back to the presence of a unit; and the share of the variance that they explain. A unit that is always present
    gets 0.

    Coordinate descent: each coefficient in turn is the soft-thresholded covariance of its feature with what the others leave.
    """
    features = present.astype(np.float64)
    deviation = features.std(axis=0)
    scaled = ((features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)).T.copy()
    centred = values - values.mean()
    residual, found = centred.copy(), np.zeros(len(scaled))
    enough = TOLERANCE * centred.std()
    for _ in range(SWEEPS):
        largest = 0.0
        for unit in np.flatnonzero(deviation > 0):
            fit = found[unit] + scaled[unit] @ residual / len(values)
            new = np.sign(fit) * max(abs(fit) - alpha, 0.0)
            if new != found[unit]:
                residual -= scaled[unit] * (new - found[unit])
                largest, found[unit] = max(largest, abs(new - found[unit])), new
        if largest <= enough:
            break
    variance = float(centred @ centred)
    return found / np.where(deviation > 0, deviation, 1.0), 1 - float(residual @ residual) / variance if variance > 0 else 1.0
