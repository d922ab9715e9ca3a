"""Noiser: how much does the target lose when bounded noise is put on one token's embedding?"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np

from noiser.errors import NonFiniteError, OptionError
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, Unit, units_to_perturb
from noiser.methods.noiser.noise import Noise, Norm, expected_norm, paper_noise, random_scale, released_noise
from noiser.methods.noiser.search import FIRST_GUESS, exact_minimum, fast_minimum, first_flipping, separate_crossings, separate_minima
from noiser.methods.noiser.trials import NoiseEvaluations
from noiser.registry import Range, method

Bound = Literal["k_min", "k_max", "k_max_per_token", "l1", "l2", "l3", "l4", "linf", "random", "none"]
SEARCHED = ("k_min", "k_max", "k_max_per_token")
HIGHEST = 1024.0
"""Where `bracket="expand"` gives up doubling."""


def check(*, bound: Bound, bracket: str, variant: str, norm: Norm | None, unit: str) -> None:
    """Refuse combinations that mean nothing."""
    if variant == "official" and unit != "token":
        raise OptionError(f"variant=official is the released code, which disturbs single tokens; got unit={unit}")
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
    goal: Objective,
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
    """Drop in the explained quantity when noise of the largest scale that flips no prediction is put on one token.

    Higher is more important; signed, not normalised; in probability units, so within [-1, 1], for the probability of a
    target. Noise is standard normal, the same `samples` draws for every token and scale; the distribution and the
    quantity are averaged over the draws. The scale `k` is found on a grid of 2^-steps. It is that of the model's own
    prediction after the explained tokens, whatever the target:

    samples  number of noise draws that the scores are averaged over.
    steps    number of halvings when k is searched; k is exact to 2^-steps.
    bound    k_min: the largest scale at which no token flips the model's own prediction; k_max, k_max_per_token: the
             largest at which some token, or this token, does not; l1 ... linf: 1 / E||n||_p; random: U(0, 1); none: 1.
    bracket  fixed: search [0, 1]; expand: double the upper end, to 1024 at most, until something flips.
    search   exact: what a bisection of its own for each token gives, whatever the shape of the flips; fast: the same
             where flips are monotone in k, with far fewer trials; `notes["non_monotone"]` counts tokens seen not to be.
    variant  official: the released code: float64 noise from one fixed stream (`seed` has no effect), divided by `norm`
             if given; k is the last midpoint tried, which may flip; scores are divided by their signed sum.
    norm     the norm that the noise is divided by, in variant=official only.
    unit     what is disturbed at once; a unit's score is divided evenly among its tokens.

    Source: Ghasemi Madani et al. 2025, arXiv:2504.02911, section 3, table 2 and appendix D.
    """
    official = variant == "official"
    dim, ids = clean.embeds.shape[1], clean.prompt.input_ids
    parts = units_to_perturb(clean.prompt, unit)
    noise = Noise(
        parts.members, lambda n: lm.to_device(released_noise(samples, dim, norm) if official else paper_noise(samples, dim, seed, ids, n))
    )
    trials = NoiseEvaluations(clean, goal, noise)
    if bound in SEARCHED:
        scales, status = yield from _search(trials, steps, bound, bracket, search, official)
    else:
        scales, status = [_fixed(bound, dim, seed, ids)] * trials.seq, "fixed"
    scores = parts.spread(np.array((yield from trials.scores(scales)), dtype=np.float64))
    notes = _notes(lm, trials, scales, status, bound, search)
    return MethodOutput(*_divided(scores, notes)) if official else MethodOutput(scores, notes)


def _fixed(bound: str, dim: int, seed: int, ids: tuple[int, ...]) -> float:
    if bound == "random":
        return random_scale(seed, ids)
    return 1.0 if bound == "none" else 1 / expected_norm(bound, dim)


def _search(
    trials: NoiseEvaluations, steps: int, bound: Bound, bracket: str, search: str, official: bool
) -> Steps[tuple[list[float], str]]:
    """Each token's scale, and how the search ended. The released code halves once less and takes the middle of what is left."""
    steep = _steepness(trials)
    order = sorted(range(trials.seq), key=lambda piece: -steep[piece]) if steep else list(range(trials.seq))[::-1]
    upper = (yield from _flipping_scale(trials, order)) if bracket == "expand" else 1.0
    levels = steps - official
    unit, top = upper / 2**levels, 2**levels - 1
    if bound == "k_min" and search == "exact":
        lows = [(yield from exact_minimum(trials, order, levels, unit))] * trials.seq
    elif bound == "k_min":
        lows = [(yield from fast_minimum(trials, order, levels, unit, _first_guess(trials, max(steep, default=0.0))))] * trials.seq
    else:
        lows = yield from (separate_minima if search == "exact" else separate_crossings)(trials, levels, unit)
        lows = [max(lows)] * trials.seq if bound == "k_max" else lows
    scales = [(low + official / 2) * unit for low in lows]
    flipped = official and bool((yield from trials.flipping(range(trials.seq), scales[0], anchor=True)))
    if min(lows) == 0 and (flipped or not official):
        return scales, "at_floor"
    return scales, "not_reached" if max(lows) == top and not flipped else "found"


def _steepness(trials: NoiseEvaluations) -> list[float]:
    """How fast the top-two margin falls with each piece at most; the steepest is likely to flip first. Empty where not known."""
    if trials.clean.gradient is None:
        return []
    return [float(trials.clean.gradient[list(piece)].norm()) for piece in trials.noise.units]


def _first_guess(trials: NoiseEvaluations, steepest: float) -> float:
    """Where a straight line along the steepest gradient loses the prediction, times FIRST_GUESS."""
    return FIRST_GUESS * trials.clean_log_ratio / steepest if steepest > 0 else 0.5


def _flipping_scale(trials: NoiseEvaluations, order: Sequence[int]) -> Steps[float]:
    """1, doubled until some token flips there, or until HIGHEST."""
    upper = 1.0
    while upper < HIGHEST and not (yield from first_flipping(trials, order, upper)):
        upper *= 2
    return upper


def _notes(lm: LanguageModel, trials: NoiseEvaluations, scales: list[float], status: str, bound: Bound, search: str) -> dict[str, Any]:
    """What a reader needs to judge the scores, all of it measured."""
    clean, predicted = trials.clean, trials.prediction
    at_scale = [token for token, k in enumerate(scales) if k > 0 and trials.flips(token, k)]
    notes: dict[str, Any] = {
        "k": scales if bound == "k_max_per_token" else scales[0],
        "k_status": status,
        "flipped": at_scale,
        "first_to_flip": trials.first_to_flip(),
        "prediction": {"token_id": predicted, "token": lm.tokens.surface(predicted), "prob": float(clean.probs[predicted])},
        "tie": bool((clean.probs == clean.probs[predicted]).sum() > 1),
        "non_monotone": trials.non_monotone(),
        "warnings": [],
    }
    notes["warnings"] = [sentence for sentence, holds in _warnings(notes, bound, search) if holds]
    return notes


def _warnings(notes: dict[str, Any], bound: Bound, search: str) -> list[tuple[str, bool]]:
    return [
        ("The model holds several tokens equally probable; the lowest id counts as its prediction.", notes["tie"]),
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


def _divided(scores: np.ndarray, notes: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Scores over their signed sum, as released; the sum is noted, so that the scores themselves can be had back."""
    total = float(scores.sum())
    if total == 0:
        raise NonFiniteError("variant=official divides the scores by their sum, which is 0 here: they have no values")
    if total < 0:
        notes["warnings"].append("The scores add up to less than 0, so dividing by their sum, as released, turned every sign around.")
    return scores / total, notes | {"sum": total}
