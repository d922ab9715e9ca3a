"""Noiser: the drop in the explained quantity when noise is added to one token's embedding."""

from typing import Annotated, Any, Literal

import numpy as np
from torch import Tensor

from noiser.errors import NonFiniteError, OptionError
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, Unit, units_to_perturb
from noiser.methods.noiser.evaluations import Drops, NoiseEvaluations, draw_until
from noiser.methods.noiser.noise import Noise, Norm, official_noise, paired, paper_noise
from noiser.methods.noiser.notes import noise_notes, saturation_warnings
from noiser.methods.noiser.scale import SEARCHED, Bound, fixed_scale, search_scales
from noiser.methods.uncertainty import stderr_of_mean
from noiser.registry import Range, method
from noiser.text.units import Units

SCALE, TOLERANCE, MAX_SAMPLES = 8.0, 0.1, 100
"""Defaults of options that act only with bound=rms or samples=auto."""


def check(
    *,
    samples: int | str,
    bound: Bound,
    bracket: str,
    variant: str,
    norm: Norm | None,
    unit: str,
    scale: float,
    pairs: bool,
    tolerance: float,
    max_samples: int,
) -> None:
    """Raises OptionError for combinations without a meaning."""
    if variant == "official":
        _check_official(samples=samples, bound=bound, bracket=bracket, unit=unit, pairs=pairs)
    if norm is not None and variant != "official":
        raise OptionError(f"norm divides the noise in variant=official only; in the paper a norm is a bound: bound={norm}")
    if bracket == "expand" and bound not in SEARCHED:
        raise OptionError(f"bracket=expand widens a search, and bound={bound} has none")
    if scale != SCALE and bound != "rms":
        raise OptionError(f"scale multiplies the size of the embeddings in bound=rms only; got bound={bound}")
    if samples == "auto":
        _check_auto(bound=bound, pairs=pairs, max_samples=max_samples)
        return
    if (tolerance, max_samples) != (TOLERANCE, MAX_SAMPLES):
        raise OptionError(f"tolerance and max_samples say when samples=auto stops; got samples={samples}")
    if pairs and int(samples) % 2:
        raise OptionError(f"pairs draws each noise vector and its negative, so samples must be even; got {samples}")


def _check_official(*, samples: int | str, bound: str, bracket: str, unit: str, pairs: bool) -> None:
    if unit != "token":
        raise OptionError(f"variant=official is the released code, which perturbs single tokens; got unit={unit}")
    if bound != "k_min":
        raise OptionError(f"variant=official is the released code, which knows only bound=k_min; got bound={bound}")
    if bracket != "fixed":
        raise OptionError("variant=official is the released code, which searches [0, 1] only: use bracket=fixed")
    if pairs or samples == "auto":
        raise OptionError(f"variant=official is the released code, which has no {'pairs' if pairs else 'samples=auto'}")


def _check_auto(*, bound: str, pairs: bool, max_samples: int) -> None:
    if bound in SEARCHED:
        raise OptionError(f"samples=auto needs a bound without a search, whose flips depend on the draws: bound=rms, not bound={bound}")
    if pairs and max_samples % 2:
        raise OptionError(f"pairs draws each noise vector and its negative, so max_samples must be even; got {max_samples}")


def settle(options: dict[str, Any]) -> dict[str, Any]:
    """`search=auto` is exact in the official variant, whose numbers are compared with published ones, and fast otherwise."""
    automatic = "exact" if options["variant"] == "official" else "fast"
    return options | {"search": automatic if options["search"] == "auto" else options["search"]}


@method(
    "noiser",
    family="perturbation",
    source="Ghasemi Madani et al. 2025, arXiv:2504.02911",
    cost="1.2 to 2 times T x samples rows of T/2 tokens, medians of long and short prompts (1.1 times without a search; fewer with unit)",
    changes="noise is added to the embedding of one unit at a time",
    check=check,
    settle=settle,
    requires="margin",
    paper_normalization="signed_sum",
    added=("scale", "pairs", "tolerance", "max_samples"),
)
def noiser(
    lm: LanguageModel,
    clean: CleanRun,
    objective: Objective,
    *,
    samples: Annotated[int, Range(1, 10_000)] | Literal["auto"] = 10,
    steps: Annotated[int, Range(1, 20)] = 10,
    bound: Bound = "k_min",
    bracket: Literal["fixed", "expand"] = "fixed",
    search: Literal["auto", "fast", "exact"] = "auto",
    variant: Literal["paper", "official"] = "paper",
    norm: Norm | None = None,
    unit: Unit = "token",
    scale: Annotated[float, Range(1e-3, 1e4)] = SCALE,
    pairs: bool = False,
    tolerance: Annotated[float, Range(1e-3, 10.0)] = TOLERANCE,
    max_samples: Annotated[int, Range(4, 10_000)] = MAX_SAMPLES,
    seed: int = 0,
) -> Steps[MethodOutput]:
    """Drop in the explained quantity when a token gets noise of the largest scale that flips no prediction.

    Higher is more important; signed, not normalised. For the probability of a target the scores are in probability units,
    so within [-1, 1]. The noise is standard normal, with the same `samples` draws for every token and scale. The
    distribution and the quantity are averaged over the draws, and `stderr` is the standard error of that average at the
    scale `k` that was used. A searched `k` lies on a grid of 2^-steps. It depends on the model's own prediction after the
    explained tokens, not on the target.

    samples      number of noise draws that the scores are averaged over; auto: as many as `tolerance` needs.
    steps        number of halvings when k is searched; k is exact to 2^-steps.
    bound        k_min: the largest scale at which no token flips the model's own prediction; k_max, k_max_per_token: the
                 largest at which some token, or this token, does not; l1 ... linf: 1 / E||n||_p; random: U(0, 1); none: 1;
                 rms: `scale` times the root mean square of the prompt's embedding elements; replace: the token's embedding
                 is not added to: noise of its own root mean square takes its place.
    bracket      fixed: search [0, 1]; expand: double the upper end, up to 1024, until some token flips.
    search       exact: a bisection for each token, for flips of any shape; fast: the same result with fewer rows if flips are
                 monotone in k, which it assumes and does not check; `notes["non_monotone"]` counts the tokens that were seen
                 not to be. auto: fast, and exact in variant=official.
    variant      official: as the released code: float64 noise from one fixed stream (`seed` has no effect), divided by
                 `norm` if given; k is the last midpoint tried, which may flip; scores are divided by their signed sum.
    norm         the norm that the noise is divided by, in variant=official only.
    unit         what is perturbed at once; a unit's score is divided evenly among its tokens.
    scale        size of the noise in bound=rms, as a multiple of the embeddings' size. It means the same on every model.
    pairs        each noise vector comes with its negative, so that effects of first order in the noise cancel.
    tolerance    samples=auto stops when every standard error is at most this share of the largest |score|.
    max_samples  the most draws of samples=auto.

    Source: Ghasemi Madani et al. 2025, arXiv:2504.02911, section 3, table 2 and appendix D. Not in the paper: rms, replace,
    pairs, samples=auto.
    """
    official, ids, dim = variant == "official", clean.prompt.input_ids, clean.embeds.shape[1]
    units = units_to_perturb(clean.prompt, unit)

    def vectors(first: int, stop: int, offset: int) -> Tensor:
        """The noise vectors from one number up to another. Further draws do not change the first ones."""
        if official:
            return official_noise(stop, dim, norm)[first:]
        each = 2 if pairs else 1
        drawn = paper_noise(stop // each, dim, seed, ids, offset)
        return (paired(drawn) if pairs else drawn)[first:]

    def evaluate(first: int, stop: int) -> NoiseEvaluations:
        noise = Noise(units.members, lambda offset: lm.to_device(vectors(first, stop, offset)), replace=bound == "replace")
        return NoiseEvaluations(clean, objective, noise)

    scales, status = [fixed_scale(bound, clean, scale, seed)] * len(units.members) if bound not in SEARCHED else [], "fixed"
    if samples == "auto":
        evaluations, drops = yield from draw_until(evaluate, scales, tolerance, max_samples, pairs=pairs)
    else:
        evaluations = evaluate(0, samples)
        if bound in SEARCHED:
            scales, status = yield from search_scales(evaluations, steps, bound, bracket, search, official)
        drops = yield from evaluations.drops(scales)
    notes = noise_notes(lm, evaluations, scales, status, bound, search) | {"samples": drops.each.shape[1]}
    notes["warnings"] += saturation_warnings(objective, drops)
    return _output(units, drops, notes, official=official, pairs=pairs, measured=any(k > 0 for k in scales))


def _output(units: Units, drops: Drops, notes: dict[str, Any], *, official: bool, pairs: bool, measured: bool) -> MethodOutput:
    """The scores of tokens and their standard errors. With k = 0 nothing was drawn, so there are none."""
    each = drops.each
    scores = units.spread(drops.means)
    if official:
        scores, notes = _divide_by_sum(scores, notes)
        each = (each - scores[:, None] * each.sum(axis=0)) / notes["sum"]  # the ratio to first order (delta method)
    stderr, dof = stderr_of_mean(each, pairs=pairs)
    if stderr is None or not measured:
        return MethodOutput(scores, notes)
    return MethodOutput(scores, notes, units.spread(stderr), dof)


def _divide_by_sum(scores: np.ndarray, notes: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Divide the scores by their signed sum, as the released code does. The notes keep the sum."""
    total = float(scores.sum())
    if total == 0:
        raise NonFiniteError("variant=official divides the scores by their sum, which is 0 here: they have no values")
    if total < 0:
        notes["warnings"].append("The sum of the scores is negative, so dividing by it (variant=official) reversed every sign.")
    return scores / total, notes | {"sum": total}
