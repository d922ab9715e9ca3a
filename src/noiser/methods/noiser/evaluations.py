"""Readouts under noise, for each unit and scale that was tried on one prompt."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from noiser.lm.kv_cache import CleanRun
from noiser.lm.perturbation import PerturbedRows, Readout
from noiser.lm.quantity import token_logit_fn
from noiser.lm.target import Objective
from noiser.methods.base import Steps, ask, measure
from noiser.methods.noiser.noise import Noise
from noiser.methods.uncertainty import stderr_of_mean

TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Drops:
    """Drops in the explained quantity when each unit has noise."""

    means: Float[np.ndarray, " units"]
    each: Float[np.ndarray, "units draws"]
    """With each noise vector."""

    def set(self, unit: int, anchor: float, values: Sequence[float] | Float[np.ndarray, " draws"], mean: float) -> None:
        """Enter the values of one unit. The anchor is the value without noise."""
        self.means[unit] = anchor - mean
        self.each[unit] = anchor - np.asarray(values)


class NoiseEvaluations:
    """Noise of scale `k` on one unit (by default a token) at a time. Each (unit, scale) runs once and is remembered."""

    def __init__(self, clean: CleanRun, objective: Objective, noise: Noise) -> None:
        self.clean = clean
        self.objective = objective
        self.noise = noise
        self.prediction = clean.prediction
        end = len(clean.prompt) - 1
        own_logit_fn = objective.logit_fn_on(clean)
        self._reads_objective = own_logit_fn is not None
        """Whether a readout also has the explained quantity. False if that is read from another sequence."""
        self._logit_fn = own_logit_fn or token_logit_fn("prob", (self.prediction,), (end,))
        top = clean.probs.topk(2).values.tolist()
        self.clean_log_ratio = max(_log(top[0]) - _log(top[1]), TINY)
        self.readouts: list[dict[float, Readout]] = [{} for _ in noise.units]

    def first(self, draws: int) -> "NoiseEvaluations":
        """Evaluations with the first draws alone. Nothing was tried with them yet."""
        return NoiseEvaluations(self.clean, self.objective, self.noise.first(draws))

    @property
    def seq(self) -> int:
        """The number of units."""
        return len(self.readouts)

    def scales(self, token: int) -> list[float]:
        """The scales that were tried on a unit, in the order of trying."""
        return list(self.readouts[token])

    def run(self, pairs: Iterable[tuple[int, float]], anchor: bool = False) -> Steps[None]:
        """Run every (token, k) that has not run yet. With `anchor`, an unperturbed row runs beside it, as scoring needs it."""
        missing = [(token, k) for token, k in dict.fromkeys(pairs) if not self._has(token, k, anchor)]
        if missing:
            perturbed = [
                PerturbedRows(self.clean, self.noise.perturbation(token, k), self._logit_fn, self.prediction, anchor)
                for token, k in missing
            ]
            readouts = yield from ask(perturbed)
            for (token, k), readout in zip(missing, readouts, strict=True):
                self.readouts[token][k] = readout

    def _has(self, token: int, k: float, anchor: bool) -> bool:
        """Whether (token, k) ran, with its anchor if `anchor`. A token that flips somewhere is not ignored, and needs none."""
        readout = self.readouts[token].get(k)
        return readout is not None and (not anchor or readout.anchor is not None or any(self.flips(token, k) for k in self.scales(token)))

    def flipping(self, tokens: Sequence[int], k: float, anchor: bool = False) -> Steps[list[int]]:
        """The tokens whose noise at scale `k` flips the prediction. The one with the lowest margin comes first."""
        yield from self.run(((token, k) for token in tokens), anchor)
        flipped = [token for token in tokens if self.flips(token, k)]
        return sorted(flipped, key=lambda token: self.readouts[token][k].margin)

    def drops(self, scales: Sequence[float]) -> Steps["Drops"]:
        """Drop in the explained quantity with noise on each unit at its own scale. It is 0 at scale 0."""
        pairs = [(token, k) for token, k in enumerate(scales) if k > 0]
        drops = Drops(np.zeros(len(scales)), np.zeros((len(scales), self.noise.draws)))
        if self._reads_objective:
            yield from self.run(pairs, anchor=True)
            for token, k in pairs:
                readout = self.readouts[token][k]
                anchor = readout.anchor if readout.anchor is not None else self.objective.value
                drops.set(token, anchor, readout.values, readout.value)
            return drops
        if self._branch_reads_both:
            return (yield from self._drops_in_one_run(pairs, drops))
        yield from self.run(pairs)  # the notes say whether each flips the prediction
        measurements = yield from measure(self.objective, [self.noise.perturbation(token, k) for token, k in pairs], anchor=True)
        for (token, _), measurement in zip(pairs, measurements, strict=True):
            assert measurement.anchor is not None
            drops.set(token, measurement.anchor, measurement.values, float(measurement.values.mean()))
        return drops

    @property
    def _branch_reads_both(self) -> bool:
        """Whether one row has the explained quantity and the next token's distribution: that of a target of several tokens."""
        branches = self.objective.branches
        return len(branches) == 1 and branches[0].logit_fn.ends[0] == len(self.clean.prompt) - 1

    def _drops_in_one_run(self, pairs: Sequence[tuple[int, float]], drops: Drops) -> Steps[Drops]:
        """The drops and the flips from the same rows, which end with the target."""
        (branch,) = self.objective.branches
        readouts = yield from ask(
            [PerturbedRows(branch.clean, self.noise.perturbation(token, k), branch.logit_fn, self.prediction, True) for token, k in pairs]
        )
        for (token, k), readout in zip(pairs, readouts, strict=True):
            assert readout.anchor is not None
            self.readouts[token].setdefault(k, readout)
            drops.set(token, readout.anchor, readout.values, readout.value)
        return drops

    def flips(self, token: int, k: float) -> bool:
        """Whether noise of scale `k` on this token flipped the prediction."""
        return self.readouts[token][k].flips(self.prediction)

    def log_ratio(self, token: int, k: float) -> float:
        """log P(prediction) - log P(best rival). It is smooth in k, and negative exactly if the prediction has flipped."""
        readout = self.readouts[token][k]
        ratio = _log(readout.base) - _log(readout.rival)
        return min(ratio, -TINY) if self.flips(token, k) else max(ratio, TINY)

    def first_to_flip(self) -> int | None:
        """The token that flipped the prediction at the smallest scale. None if no token did."""
        flipped = [(k, token) for token, by_scale in enumerate(self.readouts) for k in by_scale if self.flips(token, k)]
        return min(flipped)[1] if flipped else None

    def non_monotone(self) -> int:
        """The number of tokens that flipped the prediction at one scale and not at a larger one."""
        count = 0
        for token, by_scale in enumerate(self.readouts):
            flips = [self.flips(token, k) for k in sorted(by_scale)]
            count += flips != sorted(flips)
        return count


def _log(probability: float) -> float:
    return math.log(max(probability, TINY))


FIRST_DRAWS = 8
"""With samples=auto, the draws before the first look at the standard errors."""

Evaluate = Callable[[int, int], NoiseEvaluations]
"""Evaluations with the noise vectors from one number up to, not including, another."""


def draw_until(
    evaluate: Evaluate, scales: Sequence[float], tolerance: float, max_samples: int, *, pairs: bool
) -> Steps[tuple[NoiseEvaluations, Drops]]:
    """Draw until the standard error of every score is at most `tolerance` times the largest |score|, or until `max_samples`.

    Returns the evaluations of the first draws, and the drops with all of them.
    """
    evaluations = evaluate(0, min(FIRST_DRAWS, max_samples))
    drops = yield from evaluations.drops(scales)
    while (count := drops.each.shape[1]) < max_samples:
        needed = _draws_needed(drops, tolerance, pairs=pairs)
        if needed <= count:
            break
        stop = min(needed, 2 * count, max_samples)
        more = yield from evaluate(count, stop).drops(scales)
        each = np.concatenate([drops.each, more.each], axis=1)
        drops = Drops(each.mean(axis=1), each)
    return evaluations, drops


def _draws_needed(drops: Drops, tolerance: float, *, pairs: bool) -> int:
    """An even number of draws with which every standard error is expected to be within the tolerance."""
    stderr, _ = stderr_of_mean(drops.each, pairs=pairs)
    count = drops.each.shape[1]
    if stderr is None:
        return count + 2
    largest, wanted = float(stderr.max(initial=0.0)), tolerance * float(np.abs(drops.means).max(initial=0.0))
    if largest <= wanted:
        return count
    return max(count + 2, 2 * math.ceil(count * (largest / wanted) ** 2 / 2)) if wanted > 0 else 2 * count
