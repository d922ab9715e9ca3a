"""Integrated gradients along straight paths from a baseline to the prompt, for all tokens at once or for one at a time.

The adaptive integration has an exact check: on every segment of a path the contributions must add up to the change in the
explained quantity from one end to the other. A segment that misses this is halved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from noiser.errors import checkpoint
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import Baseline, Measurement, MethodOutput, Steps, baseline_embeds, measure
from noiser.methods.gradients import Aggregation, aggregate, broadcast_shares, distance
from noiser.registry import Range, method

StepCount = Annotated[int, Range(1, 10_000)] | Literal["adaptive"]
Tolerance = Annotated[float, Range(1e-6, 1.0)]
POINTS_PER_SEGMENT = 8
MAX_DEPTH = 12
"""How often a segment is halved at most."""
MAX_GAP = 0.05
"""A completeness gap above this share of the expected sum gives a warning."""
MAX_TOKEN_GAP = 0.2
"""A token's completeness gap above this share of the largest change gives a warning."""


@method(
    "integrated_gradients",
    family="gradient",
    source="Sundararajan et al. 2017, arXiv:1703.01365",
    cost="steps + 1 rows of T tokens, forward and backward; adaptive: 9 for each segment",
    changes="all embeddings move on a straight line from the baseline to the prompt",
)
def integrated_gradients(
    lm: LanguageModel,
    clean: CleanRun,
    objective: Objective,
    *,
    steps: StepCount = "adaptive",
    tolerance: Tolerance = 0.01,
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
) -> Steps[MethodOutput]:
    """Gradients integrated along the straight path from a baseline to the prompt, times the distance.

    Before aggregation the contributions of all dimensions of all tokens add up to the explained quantity minus its value at
    the baseline. `notes["completeness_gap"]` is the error of this sum, in units of the quantity.

    steps        a number of Gauss-Legendre points (50 in Captum and Inseq); adaptive: segments of the path are halved until
                 their contributions match the change in the quantity.
    tolerance    for adaptive: the largest error of a segment, as a share of the change over the whole path.
    baseline     zero: zero embeddings; unk: the embedding of the tokenizer's unknown token everywhere (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed, complete.

    Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365.
    """
    start = baseline_embeds(lm, clean.prompt, baseline)
    (integral,) = yield from integrate(objective, [Path(0, distance(clean, start), start)], steps, tolerance)
    total, expected = float(integral.contributions.sum()), objective.value - integral.at_baseline
    notes = {
        "completeness_gap": total - expected,
        "baseline_value": integral.at_baseline,
        "warnings": _gap_warnings(total - expected, expected, _advice(steps, baseline)),
    }
    return MethodOutput(aggregate(integral.contributions, aggregation), {**notes, "points": integral.points})


@method(
    "sequential_integrated_gradients",
    family="gradient",
    source="Enguehard 2023, arXiv:2305.15853",
    cost="T x (steps + 1) rows of T/2 tokens, forward and backward; adaptive: 9 for each segment",
    changes="the embedding of one token at a time moves on a straight line from the baseline",
)
def sequential_integrated_gradients(
    lm: LanguageModel,
    clean: CleanRun,
    objective: Objective,
    *,
    steps: StepCount = "adaptive",
    tolerance: Tolerance = 0.1,
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
) -> Steps[MethodOutput]:
    """Integrated gradients for one token at a time; all other tokens keep their embeddings.

    Summed over the dimensions, a token's contribution is the explained quantity minus its value with that token at the
    baseline, which is what occlusion measures. `notes["completeness_gaps"]` is the error for each token, in units of the
    quantity. It can be large for the first token, because many models jump when its embedding is zero.

    steps        a number of Gauss-Legendre points for each token (50 in Inseq); adaptive: segments of a token's path are
                 halved until their contributions match the change in the quantity.
    tolerance    for adaptive: the largest error of a segment, as a share of the largest change for any token.
    baseline     zero: a zero embedding; unk: the embedding of the tokenizer's unknown token (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed.

    Source: Enguehard 2023, arXiv:2305.15853.
    """
    start = baseline_embeds(lm, clean.prompt, baseline)
    distances = distance(clean, start)
    paths = [Path(token, distances[[token]], None if start is None else start[[token]]) for token in range(len(clean.prompt))]
    integrals = yield from integrate(objective, paths, steps, tolerance)
    contributions = np.concatenate([integral.contributions for integral in integrals])
    expected = objective.value - np.array([integral.at_baseline for integral in integrals])
    gaps = contributions.sum(-1) - expected
    notes = {"completeness_gaps": gaps.tolist(), "warnings": _token_gap_warnings(clean, gaps, expected, _advice(steps, baseline))}
    return MethodOutput(aggregate(contributions, aggregation), {**notes, "points": [integral.points for integral in integrals]})


def _gap_warnings(gap: float, expected: float, advice: str) -> list[str]:
    if abs(gap) <= MAX_GAP * abs(expected):
        return []
    return [f"The contributions should add up to {expected:.3g} and miss it by {gap:.2g}: {advice}"]


def _token_gap_warnings(clean: CleanRun, gaps: Float[np.ndarray, " seq"], expected: Float[np.ndarray, " seq"], advice: str) -> list[str]:
    large = np.flatnonzero(np.abs(gaps) > MAX_TOKEN_GAP * np.abs(expected).max())
    if not len(large):
        return []
    named = ", ".join(f"{clean.prompt.tokens[token]!r} by {gaps[token]:+.2g}" for token in large[:3])
    return [f"{len(large)} of {len(gaps)} tokens miss the change that their contributions should add up to, {named}: {advice}"]


def _advice(steps: int | str, baseline: str) -> str:
    """What to try if completeness fails."""
    options = ["steps=adaptive or more steps"] if not isinstance(steps, str) else ["a smaller tolerance"]
    options += ["baseline=unk, as the way to a zero embedding can end in a jump"] if baseline == "zero" else []
    return f"try {', or '.join(options)}."


@dataclass(frozen=True, eq=False)
class Path:
    """A straight path from the baseline to the embeddings of some adjacent positions. All other positions stay."""

    start: int
    """The first of the positions."""
    distance: Float[np.ndarray, "span dim"]
    """Embeddings minus baseline."""
    baseline: Float[Tensor, "span dim"] | None
    """None: zeros."""

    def at(self, shares: Float[np.ndarray, " rows"]) -> Interpolate:
        """The points at these shares of the path, one row each."""
        return Interpolate(self.start, broadcast_shares(shares, len(self.distance)), self.baseline)


@dataclass(frozen=True, eq=False)
class Integral:
    """The result for one path."""

    contributions: Float[np.ndarray, "span dim"]
    """The mean gradient along the path times the distance."""
    at_baseline: float
    """The explained quantity at the baseline."""
    points: int
    """The number of gradients taken."""


def integrate(objective: Objective, paths: Sequence[Path], steps: int | str, tolerance: float) -> Steps[list[Integral]]:
    """Integrate the gradient along each path: with `steps` Gauss-Legendre points, or adaptively."""
    if isinstance(steps, str):
        return (yield from _integrate_adaptively(objective, paths, tolerance))
    points, weights = gauss_legendre(steps)
    measurements = yield from measure(objective, [path.at(np.append(points, 0.0)) for path in paths], weights=(*weights, 0.0))
    return [Integral(_contributions(path, m), m.values[-1], steps) for path, m in zip(paths, measurements, strict=True)]


def gauss_legendre(steps: int) -> tuple[Float[np.ndarray, " steps"], tuple[float, ...]]:
    """Points in (0, 1) and weights, exact for polynomials of degree 2 steps - 1."""
    points, weights = np.polynomial.legendre.leggauss(steps) if steps <= 256 else _many_nodes(steps)
    return (points + 1) / 2, tuple((weights / 2).tolist())


def _many_nodes(steps: int) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """The roots in (-1, 1) of the Legendre polynomial of this degree, and their weights, by Newton's method.

    NumPy's `leggauss` solves an eigenvalue problem: for 10,000 nodes that takes minutes and more than a gigabyte, this a second.
    The first guess is Tricomi's. Source: Abramowitz & Stegun 1964, 22.16.6 and 25.4.29.
    """
    angles = np.pi * (4 * np.arange(1, (steps + 1) // 2 + 1) - 1) / (4 * steps + 2)
    x = np.cos(angles) * (1 - (steps - 1) / (8 * steps**3))
    for _ in range(4):
        value, derivative = _legendre(steps, x)
        x = x - value / derivative
    if steps % 2:
        x[-1] = 0.0
    weights = 2 / ((1 - x**2) * _legendre(steps, x)[1] ** 2)
    half = steps // 2
    return np.concatenate([-x, x[:half][::-1]]), np.concatenate([weights, weights[:half][::-1]])


def _legendre(degree: int, x: Float[np.ndarray, " half"]) -> tuple[Float[np.ndarray, " half"], Float[np.ndarray, " half"]]:
    """The Legendre polynomial and its derivative, by the three-term recurrence."""
    before, value = np.ones_like(x), x
    for n in range(2, degree + 1):
        if n % 256 == 0:
            checkpoint()
        before, value = value, ((2 * n - 1) * x * value - (n - 1) * before) / n
    return value, degree * (before - x * value) / (1 - x**2)


@dataclass(frozen=True)
class _Segment:
    """A part of a path, from the share `left` to the share `right`."""

    path: int
    left: float
    right: float
    depth: int = 0

    def halves(self) -> tuple["_Segment", "_Segment"]:
        middle = (self.left + self.right) / 2
        return _Segment(self.path, self.left, middle, self.depth + 1), _Segment(self.path, middle, self.right, self.depth + 1)


def _integrate_adaptively(objective: Objective, paths: Sequence[Path], tolerance: float) -> Steps[list[Integral]]:
    """Halve segments until the contributions of each match the change in the quantity.

    The largest error allowed is `tolerance` times the largest change over a whole path.
    """
    contributions = [np.zeros_like(path.distance) for path in paths]
    points = [0] * len(paths)
    at_baseline: list[float] = []
    end_values: dict[_Segment, float] = {_Segment(index, 0.0, 1.0): objective.value for index in range(len(paths))}
    while end_values:
        measurements = yield from _measure_segments(objective, paths, list(end_values))
        at_baseline = at_baseline or [measurement.values[-1] for measurement in measurements]
        allowed = tolerance * max(abs(objective.value - value) for value in at_baseline)
        halved: dict[_Segment, float] = {}
        for (segment, end), measurement in zip(_with_end_values(end_values, measurements), measurements, strict=True):
            points[segment.path] += POINTS_PER_SEGMENT
            part = (segment.right - segment.left) * _contributions(paths[segment.path], measurement)
            if abs(part.sum() - (end - measurement.values[-1])) > allowed and segment.depth < MAX_DEPTH:
                left, right = segment.halves()
                halved |= {left: np.nan, right: end}
            else:
                contributions[segment.path] += part
        end_values = halved
    return [Integral(*parts) for parts in zip(contributions, at_baseline, points, strict=True)]


def _measure_segments(objective: Objective, paths: Sequence[Path], segments: Sequence[_Segment]) -> Steps[list[Measurement]]:
    """Gradients inside each segment. The last row is the segment's left end, with weight 0."""
    points, weights = gauss_legendre(POINTS_PER_SEGMENT)
    shares = [segment.left + (segment.right - segment.left) * np.append(points, 0.0) for segment in segments]
    perturbations = [paths[segment.path].at(share) for segment, share in zip(segments, shares, strict=True)]
    return (yield from measure(objective, perturbations, weights=(*weights, 0.0)))


def _with_end_values(end_values: dict[_Segment, float], measurements: Sequence[Measurement]) -> list[tuple[_Segment, float]]:
    """The quantity at each segment's right end. NaN stands for the left end of the next segment, which is its other half."""
    next_left = [measurement.values[-1] for measurement in measurements[1:]] + [np.nan]
    return [(segment, float(left if np.isnan(end) else end)) for (segment, end), left in zip(end_values.items(), next_left, strict=True)]


def _contributions(path: Path, measurement: Measurement) -> Float[np.ndarray, "span dim"]:
    assert measurement.gradient is not None
    return measurement.gradient * path.distance
