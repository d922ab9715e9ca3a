"""The scale of the noise: fixed, or searched so that the noise flips no prediction."""

from collections.abc import Sequence
from typing import Literal

from noiser.lm.kv_cache import CleanRun
from noiser.methods.base import Steps
from noiser.methods.noiser.evaluations import NoiseEvaluations
from noiser.methods.noiser.noise import expected_norm, random_scale, root_mean_square
from noiser.methods.noiser.search import FIRST_GUESS, exact_minimum, fast_minimum, first_flipping, separate_crossings, separate_minima

Bound = Literal["k_min", "k_max", "k_max_per_token", "l1", "l2", "l3", "l4", "linf", "random", "none", "rms", "replace"]
SEARCHED = ("k_min", "k_max", "k_max_per_token")
HIGHEST = 1024.0
"""The scale at which `bracket="expand"` stops doubling."""


def fixed_scale(bound: Bound, clean: CleanRun, scale: float, seed: int) -> float:
    """The scale of a bound that needs no search. With `replace` it is a factor of the embedding's own size, which is 1."""
    if bound == "random":
        return random_scale(seed, clean.prompt.input_ids)
    if bound == "rms":
        return scale * root_mean_square(clean.embeds, clean.prompt.special)
    return 1.0 if bound in ("none", "replace") else 1 / expected_norm(bound, clean.embeds.shape[1])


def search_scales(
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
