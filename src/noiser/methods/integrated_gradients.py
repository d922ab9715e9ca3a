"""Gradients integrated along straight paths from a baseline to the prompt: at fixed points, or where they are needed.

The adaptive way has an error to go by: on every stretch of a path the contributions must add up to the change in the
explained quantity from one end of it to the other. A stretch that misses that is halved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import Measured, MethodOutput, Steps, measure
from noiser.methods.gradients import Aggregation, Baseline, aggregated, baseline_embeds, distance
from noiser.registry import Range, method

Points = Annotated[int, Range(1, 10_000)] | Literal["adaptive"]
Tolerance = Annotated[float, Range(1e-6, 1.0)]
ORDER = 8
"""Points on a stretch."""
DEEPEST = 12
"""How often a stretch is halved at most."""


@dataclass(frozen=True, eq=False)
class Path:
    """From the baseline to the embeddings of some positions, all at once; everything else stays."""

    start: int
    """The first of the positions."""
    distance: Float[np.ndarray, "span dim"]
    """Embeddings less baseline."""
    baseline: Float[Tensor, "span dim"] | None

    def at(self, shares: Float[np.ndarray, " rows"]) -> Interpolate:
        """The edit with a row for each share of the way."""
        wide = torch.from_numpy(shares.astype(np.float32))[:, None].expand(-1, len(self.distance))
        return Interpolate(self.start, wide, self.baseline)


@dataclass(frozen=True, eq=False)
class Integral:
    """What a path contributes."""

    product: Float[np.ndarray, "span dim"]
    """The mean gradient along the path times the distance."""
    at_baseline: float
    """The explained quantity at the path's beginning."""
    points: int
    """How many gradients were taken."""


@dataclass(frozen=True)
class _Stretch:
    path: int
    left: float
    right: float
    depth: int = 0

    def halves(self) -> tuple["_Stretch", "_Stretch"]:
        middle = (self.left + self.right) / 2
        return _Stretch(self.path, self.left, middle, self.depth + 1), _Stretch(self.path, middle, self.right, self.depth + 1)


def integrate(goal: Objective, paths: Sequence[Path], steps: int | str, tolerance: float) -> Steps[list[Integral]]:
    """Each path's integral: with `steps` Gauss-Legendre points, or with stretches halved until each one's contributions miss
    the change in the quantity by no more than `tolerance` times the largest change over a whole path."""
    if not isinstance(steps, str):
        points, weights = gauss_legendre(steps)
        found = yield from measure(goal, [path.at(np.append(points, 0.0)) for path in paths], weights=(*weights, 0.0))
        return [Integral(_product(path, each), each.values[-1], steps) for path, each in zip(paths, found, strict=True)]
    products = [np.zeros_like(path.distance) for path in paths]
    points_taken = [0] * len(paths)
    begins: list[float] = []
    ends: dict[_Stretch, float] = {_Stretch(number, 0.0, 1.0): goal.value for number in range(len(paths))}
    while ends:
        found = yield from _along(goal, paths, list(ends))
        begins = begins or [each.values[-1] for each in found]
        allowed = tolerance * max(abs(goal.value - begin) for begin in begins)
        again: dict[_Stretch, float] = {}
        for (stretch, end), each in zip(_with_ends(ends, found), found, strict=True):
            points_taken[stretch.path] += ORDER
            product = (stretch.right - stretch.left) * _product(paths[stretch.path], each)
            if abs(product.sum() - (end - each.values[-1])) > allowed and stretch.depth < DEEPEST:
                left, right = stretch.halves()
                again |= {left: np.nan, right: end}
            else:
                products[stretch.path] += product
        ends = again
    return [Integral(*parts) for parts in zip(products, begins, points_taken, strict=True)]


def advice(steps: int | str, baseline: str) -> str:
    """What to try where completeness misses."""
    ways = ["steps=adaptive or more steps"] if not isinstance(steps, str) else ["a smaller tolerance"]
    ways += ["baseline=unk, as the way to a zero embedding can end in a jump"] if baseline == "zero" else []
    return f"try {', or '.join(ways)}."


def gauss_legendre(steps: int) -> tuple[Float[np.ndarray, " steps"], tuple[float, ...]]:
    """Points in (0, 1) and weights, exact for polynomials of degree 2 steps - 1."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return (points + 1) / 2, tuple((weights / 2).tolist())


def _along(goal: Objective, paths: Sequence[Path], stretches: Sequence[_Stretch]) -> Steps[list[Measured]]:
    """Gradients inside each stretch; the last row is the stretch's beginning, without weight."""
    points, weights = gauss_legendre(ORDER)
    shares = [stretch.left + (stretch.right - stretch.left) * np.append(points, 0.0) for stretch in stretches]
    edits = [paths[stretch.path].at(share) for stretch, share in zip(stretches, shares, strict=True)]
    return (yield from measure(goal, edits, weights=(*weights, 0.0)))


def _with_ends(ends: dict[_Stretch, float], found: Sequence[Measured]) -> list[tuple[_Stretch, float]]:
    """The quantity at each stretch's end: where it is not known yet, it is that at the beginning of the next one, its other half."""
    following = [each.values[-1] for each in found[1:]] + [np.nan]
    return [(stretch, float(after if np.isnan(end) else end)) for (stretch, end), after in zip(ends.items(), following, strict=True)]


def _product(path: Path, found: Measured) -> Float[np.ndarray, "span dim"]:
    assert found.gradient is not None
    return found.gradient * path.distance


WIDE = 0.05
"""A completeness gap above this share of what is to be distributed is warned of."""


@method(
    "integrated_gradients",
    family="gradient",
    source="Sundararajan et al. 2017, arXiv:1703.01365",
    cost="steps + 1 rows of T tokens, forward and backward; adaptive: 9 for each stretch",
)
def integrated_gradients(
    lm: LanguageModel,
    clean: CleanRun,
    goal: Objective,
    *,
    steps: Points = "adaptive",
    tolerance: Tolerance = 0.01,
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
) -> Steps[MethodOutput]:
    """Gradients along the straight path from a baseline to the prompt, integrated, times the distance.

    Before aggregation the contributions of all dimensions of all tokens add up to the explained quantity less its value
    at the baseline; `notes["completeness_gap"]` is by how much they miss it, in units of the quantity.

    steps        a number of Gauss-Legendre points (50 in Captum and Inseq); adaptive: stretches of the path are halved
                 where their contributions miss the change in the quantity.
    tolerance    for adaptive: by how much a stretch may miss it, as a share of the change over the whole path.
    baseline     zero: zero embeddings; unk: the embedding of the tokenizer's unknown token everywhere (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed, complete.

    Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365.
    """
    start = baseline_embeds(lm, clean, baseline)
    (found,) = yield from integrate(goal, [Path(0, distance(clean, start), start)], steps, tolerance)
    notes = completeness(float(found.product.sum()), goal.value, found.at_baseline, advice(steps, baseline))
    return MethodOutput(aggregated(found.product, aggregation), {**notes, "points": found.points})


def completeness(total: float, value: float, at_baseline: float, hint: str) -> dict[str, object]:
    """Notes on how far contributions are from adding up to what they should."""
    gap = total - (value - at_baseline)
    missed = f"The contributions miss what they should add up to, {value - at_baseline:.3g}, by {gap:.2g}: "
    wide = abs(gap) > WIDE * abs(value - at_baseline)
    warnings = [missed + hint] if wide else []
    return {"completeness_gap": gap, "baseline_value": at_baseline, "warnings": warnings}


sequential_integrated_gradients_WIDE = 0.2
"""A gap above this share of the largest change is warned of."""


@method(
    "sequential_integrated_gradients",
    family="gradient",
    source="Enguehard 2023, arXiv:2305.15853",
    cost="T x (steps + 1) rows of T/2 tokens, forward and backward; adaptive: 9 for each stretch",
)
def sequential_integrated_gradients(
    lm: LanguageModel,
    clean: CleanRun,
    goal: Objective,
    *,
    steps: Points = "adaptive",
    tolerance: Tolerance = 0.1,
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
) -> Steps[MethodOutput]:
    """Integrated gradients for one token at a time, all others left as they are.

    Summed over the dimensions, a token's contribution is the quantity less its value with that token's embedding at the
    baseline, which is what occlusion measures; `notes["completeness_gaps"]` is by how much each token misses it. On the
    first token, whose zero embedding many models answer to with a jump, it can be much.

    steps        a number of Gauss-Legendre points for each token (50 in Inseq); adaptive: stretches of a token's path are
                 halved where their contributions miss the change in the quantity.
    tolerance    for adaptive: by how much a stretch may miss it, as a share of the largest change for any token.
    baseline     zero: a zero embedding; unk: the embedding of the tokenizer's unknown token (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed.

    Source: Enguehard 2023, arXiv:2305.15853.
    """
    start = baseline_embeds(lm, clean, baseline)
    away = distance(clean, start)
    paths = [Path(token, away[[token]], None if start is None else start[[token]]) for token in range(len(clean.prompt))]
    found = yield from integrate(goal, paths, steps, tolerance)
    product = np.concatenate([each.product for each in found])
    wanted = goal.value - np.array([each.at_baseline for each in found])
    notes = _completeness(clean, product.sum(-1), wanted, advice(steps, baseline))
    return MethodOutput(aggregated(product, aggregation), {**notes, "points": [each.points for each in found]})


def _completeness(clean: CleanRun, found: Float[np.ndarray, " seq"], wanted: Float[np.ndarray, " seq"], hint: str) -> dict[str, Any]:
    """Notes on how far each token's contribution is from the change in the quantity that it should be."""
    gaps = found - wanted
    wide = np.flatnonzero(np.abs(gaps) > sequential_integrated_gradients_WIDE * np.abs(wanted).max())
    named = ", ".join(f"{clean.prompt.tokens[token]!r} by {gaps[token]:+.2g}" for token in wide[:3])
    missed = f"{len(wide)} of {len(gaps)} tokens miss the change that theirs should add up to, {named}: "
    warnings = [missed + hint] if len(wide) else []
    return {"completeness_gaps": gaps.tolist(), "warnings": warnings}
