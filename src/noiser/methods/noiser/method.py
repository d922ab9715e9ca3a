"""Noiser: the drop in the explained quantity when bounded noise is added to one token's embedding."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from torch import Tensor

from noiser.errors import NonFiniteError, OptionError
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, Unit, units_to_perturb
from noiser.methods.noiser.evaluations import NoiseEvaluations
from noiser.methods.noiser.noise import Noise, Norm, expected_norm, official_noise, paper_noise, random_scale
from noiser.methods.noiser.search import FIRST_GUESS, exact_minimum, fast_minimum, first_flipping, separate_crossings, separate_minima
from noiser.registry import Range, method

Bound = Literal["k_min", "k_max", "k_max_per_token", "l1", "l2", "l3", "l4", "linf", "random", "none"]
SEARCHED = ("k_min", "k_max", "k_max_per_token")
HIGHEST = 1024.0
"""The scale at which `bracket="expand"` stops doubling."""


def check(*, bound: Bound, bracket: str, variant: str, norm: Norm | None, unit: str) -> None:
    """Raises OptionError for combinations without a meaning."""
    if variant == "official" and unit != "token":
        raise OptionError(f"variant=official is the released code, which perturbs single tokens; got unit={unit}")
    if variant == "official" and bound != "k_min":
        raise OptionError(f"variant=official is the released code, which knows only bound=k_min; got bound={bound}")
    if variant == "official" and bracket != "fixed":
        raise OptionError("variant=official is the released code, which searches [0, 1] only: use bracket=fixed")
    if norm is not None and variant != "official":
        raise OptionError(f"norm divides the noise in variant=official only; in the paper a norm is a bound: bound={norm}")
    if bracket == "expand" and bound not in SEARCHED:
        raise OptionError(f"bracket=expand widens a search, and bound={bound} has none")


@method(
    "noiser",
    family="perturbation",
    source="Ghasemi Madani et al. 2025, arXiv:2504.02911",
    cost="1.4 to 2.1 times T x samples rows of T/2 tokens, measured (fewer with unit)",
    check=check,
    requires="margin",
    paper_normalization="signed_sum",
)
def noiser(
    lm: LanguageModel,
    clean: CleanRun,
    objective: Objective,
    *,
    samples: Annotated[int, Range(1, 10_000)] = 10,
    steps: Annotated[int, Range(1, 20)] = 10,
    bound: Bound = "k_min",
    bracket: Literal["fixed", "expand"] = "fixed",
    search: Literal["fast", "exact"] = "fast",
    variant: Literal["paper", "official"] = "paper",
    norm: Norm | None = None,
    unit: Unit = "token",
    seed: int = 0,
) -> Steps[MethodOutput]:
    """Drop in the explained quantity when a token gets noise of the largest scale that flips no prediction.

    Higher is more important; signed, not normalised. For the probability of a target the scores are in probability units,
    so within [-1, 1]. The noise is standard normal, with the same `samples` draws for every token and scale. The
    distribution and the quantity are averaged over the draws. The scale `k` is found on a grid of 2^-steps. It depends on
    the model's own prediction after the explained tokens, not on the target.

    samples  number of noise draws that the scores are averaged over.
    steps    number of halvings when k is searched; k is exact to 2^-steps.
    bound    k_min: the largest scale at which no token flips the model's own prediction; k_max, k_max_per_token: the
             largest at which some token, or this token, does not; l1 ... linf: 1 / E||n||_p; random: U(0, 1); none: 1.
    bracket  fixed: search [0, 1]; expand: double the upper end, up to 1024, until some token flips.
    search   exact: a bisection for each token, for flips of any shape; fast: the same result with far fewer rows if flips
             are monotone in k; `notes["non_monotone"]` counts the tokens that were seen not to be.
    variant  official: as the released code: float64 noise from one fixed stream (`seed` has no effect), divided by `norm`
             if given; k is the last midpoint tried, which may flip; scores are divided by their signed sum.
    norm     the norm that the noise is divided by, in variant=official only.
    unit     what is perturbed at once; a unit's score is divided evenly among its tokens.

    Source: Ghasemi Madani et al. 2025, arXiv:2504.02911, section 3, table 2 and appendix D.
    """
    official = variant == "official"
    dim, ids = clean.embeds.shape[1], clean.prompt.input_ids
    units = units_to_perturb(clean.prompt, unit)

    def draws(offset: int) -> Tensor:
        return lm.to_device(official_noise(samples, dim, norm) if official else paper_noise(samples, dim, seed, ids, offset))

    evaluations = NoiseEvaluations(clean, objective, Noise(units.members, draws))
    if bound in SEARCHED:
        scales, status = yield from _search(evaluations, steps, bound, bracket, search, official)
    else:
        scales, status = [_fixed_scale(bound, dim, seed, ids)] * evaluations.seq, "fixed"
    scores = units.spread(np.array((yield from evaluations.scores(scales)), dtype=np.float64))
    notes = _notes(lm, evaluations, scales, status, bound, search)
    return MethodOutput(*_divide_by_sum(scores, notes)) if official else MethodOutput(scores, notes)


def _fixed_scale(bound: str, dim: int, seed: int, ids: tuple[int, ...]) -> float:
    if bound == "random":
        return random_scale(seed, ids)
    return 1.0 if bound == "none" else 1 / expected_norm(bound, dim)


def _search(
    evaluations: NoiseEvaluations, steps: int, bound: Bound, bracket: str, search: str, official: bool
) -> Steps[tuple[list[float], str]]:
    """The scale of each unit, and how the search ended.

    The released code halves once less and takes the middle of the last interval.
    """
    steep = _steepness(evaluations)
    order = sorted(range(evaluations.seq), key=lambda index: -steep[index]) if steep else list(range(evaluations.seq))[::-1]
    upper = (yield from _flipping_scale(evaluations, order)) if bracket == "expand" else 1.0
    levels = steps - official
    unit, top = upper / 2**levels, 2**levels - 1
    if bound == "k_min" and search == "exact":
        lows = [(yield from exact_minimum(evaluations, order, levels, unit))] * evaluations.seq
    elif bound == "k_min":
        lows = [
            (yield from fast_minimum(evaluations, order, levels, unit, _first_guess(evaluations, max(steep, default=0.0))))
        ] * evaluations.seq
    else:
        lows = yield from (separate_minima if search == "exact" else separate_crossings)(evaluations, levels, unit)
        lows = [max(lows)] * evaluations.seq if bound == "k_max" else lows
    scales = [(low + official / 2) * unit for low in lows]
    flipped = official and bool((yield from evaluations.flipping(range(evaluations.seq), scales[0], anchor=True)))
    if min(lows) == 0 and (flipped or not official):
        return scales, "at_floor"
    return scales, "not_reached" if max(lows) == top and not flipped else "found"


def _steepness(evaluations: NoiseEvaluations) -> list[float]:
    """The norm of the top-two margin's gradient at each unit: the largest is likely to flip first. Empty without a gradient."""
    if evaluations.clean.gradient is None:
        return []
    return [float(evaluations.clean.gradient[list(members)].norm()) for members in evaluations.noise.units]


def _first_guess(evaluations: NoiseEvaluations, steepest: float) -> float:
    """FIRST_GUESS times the scale at which a straight line along the steepest gradient loses the prediction."""
    return FIRST_GUESS * evaluations.clean_log_ratio / steepest if steepest > 0 else 0.5


def _flipping_scale(evaluations: NoiseEvaluations, order: Sequence[int]) -> Steps[float]:
    """1, doubled until some unit flips, up to HIGHEST."""
    upper = 1.0
    while upper < HIGHEST and not (yield from first_flipping(evaluations, order, upper)):
        upper *= 2
    return upper


def _notes(lm: LanguageModel, evaluations: NoiseEvaluations, scales: list[float], status: str, bound: Bound, search: str) -> dict[str, Any]:
    """Measured facts that help to judge the scores."""
    clean, predicted = evaluations.clean, evaluations.prediction
    flipped = [token for token, k in enumerate(scales) if k > 0 and evaluations.flips(token, k)]
    notes: dict[str, Any] = {
        "k": scales if bound == "k_max_per_token" else scales[0],
        "k_status": status,
        "flipped": flipped,
        "first_to_flip": evaluations.first_to_flip(),
        "prediction": {"token_id": predicted, "token": lm.tokens.surface(predicted), "prob": float(clean.probs[predicted])},
        "tie": bool((clean.probs == clean.probs[predicted]).sum() > 1),
        "non_monotone": evaluations.non_monotone(),
        "warnings": [],
    }
    notes["warnings"] = [warning for warning, applies in _warnings(notes, bound, search) if applies]
    return notes


def _warnings(notes: dict[str, Any], bound: Bound, search: str) -> list[tuple[str, bool]]:
    """Each possible warning, and whether it applies."""
    return [
        ("Several tokens are equally probable; the lowest id counts as the prediction.", notes["tie"]),
        (
            "Some token flips the prediction even at the smallest scale tried, so k is 0 there and so is the score; raise steps.",
            notes["k_status"] == "at_floor",
        ),
        (
            "No token flips the prediction inside the bracket; bracket=expand looks further.",
            notes["k_status"] == "not_reached" and bound == "k_min",
        ),
        (
            "Some token flips the prediction nowhere inside the bracket; the largest scale tried stands for its k.",
            notes["k_status"] == "not_reached" and bound != "k_min",
        ),
        (
            f"{notes['non_monotone']} tokens flip the prediction at one scale but not at a larger one; "
            "search=exact finds k without assuming otherwise.",
            notes["non_monotone"] > 0 and search == "fast" and notes["k_status"] != "fixed",
        ),
    ]


def _divide_by_sum(scores: np.ndarray, notes: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Divide the scores by their signed sum, as the released code does. The notes keep the sum."""
    total = float(scores.sum())
    if total == 0:
        raise NonFiniteError("variant=official divides the scores by their sum, which is 0 here: they have no values")
    if total < 0:
        notes["warnings"].append("The sum of the scores is negative, so dividing by it (variant=official) reversed every sign.")
    return scores / total, notes | {"sum": total}
