"""What has been tried on one prompt: for each token and scale of the noise, what the model then said."""

import math
from collections.abc import Iterable, Sequence

from noiser.lm.kv_cache import CleanRun
from noiser.lm.perturbation import AddNoise, PerturbedRows, Readout
from noiser.lm.quantity import token_logit_fn
from noiser.lm.target import Objective
from noiser.methods.base import Steps, ask, measure
from noiser.methods.noiser.noise import Noise

TINY = 1e-30


class NoiseEvaluations:
    """Noise of scale `k` on one piece of the prompt (a token, or a whole unit) at a time, each tried once and remembered."""

    def __init__(self, clean: CleanRun, goal: Objective, noise: Noise) -> None:
        self.clean = clean
        self.goal = goal
        self.noise = noise
        self.prediction = clean.prediction
        end = len(clean.prompt) - 1
        self._scored_here = goal.on(clean) is not None
        """Whether a trial reads the goal's quantity too: not where that takes another sequence."""
        self._measure = goal.on(clean) or token_logit_fn("prob", (self.prediction,), (end,))
        top = clean.probs.topk(2).values.tolist()
        self.clean_log_ratio = max(_log(top[0]) - _log(top[1]), TINY)
        self.readings: list[dict[float, Readout]] = [{} for _ in noise.units]

    @property
    def seq(self) -> int:
        """How many pieces the prompt has."""
        return len(self.readings)

    def scales(self, token: int) -> list[float]:
        """The scales tried on a token, in the order tried."""
        return list(self.readings[token])

    def run(self, wanted: Iterable[tuple[int, float]], anchor: bool = False) -> Steps[None]:
        """Try every (token, k) that was not tried yet; with `anchor`, beside an unedited row, as scoring wants it."""
        missing = [(token, k) for token, k in dict.fromkeys(wanted) if not self._has(token, k, anchor)]
        if missing:
            probes = [PerturbedRows(self.clean, self._edit(token, k), self._measure, self.prediction, anchor) for token, k in missing]
            readings = yield from ask(probes)
            for (token, k), reading in zip(missing, readings, strict=True):
                self.readings[token][k] = reading

    def _edit(self, token: int, k: float) -> AddNoise:
        return AddNoise(self.noise.units[token][0], self.noise.on(token), k)

    def _has(self, token: int, k: float, anchor: bool) -> bool:
        reading = self.readings[token].get(k)
        return reading is not None and (reading.anchor is not None or not anchor)

    def flipping(self, tokens: Sequence[int], k: float, anchor: bool = False) -> Steps[list[int]]:
        """Those of `tokens` whose noise at scale `k` flips the prediction, the furthest beyond the flip first."""
        yield from self.run(((token, k) for token in tokens), anchor)
        flipped = [token for token in tokens if self.flips(token, k)]
        return sorted(flipped, key=lambda token: self.readings[token][k].margin)

    def scores(self, scales: Sequence[float]) -> Steps[list[float]]:
        """Drop in the explained quantity with each piece's noise at its own scale; 0 where that scale is 0."""
        pairs = [(token, k) for token, k in enumerate(scales) if k > 0]
        drops = [0.0] * len(scales)
        if self._scored_here:
            yield from self.run(pairs, anchor=True)
            for token, k in pairs:
                reading = self.readings[token][k]
                assert reading.anchor is not None
                drops[token] = reading.anchor - reading.value
            return drops
        yield from self.run(pairs)  # whether each flips the prediction there is noted
        found = yield from measure(self.goal, [self._edit(token, k) for token, k in pairs], anchor=True)
        for (token, _), each in zip(pairs, found, strict=True):
            assert each.anchor is not None
            drops[token] = each.anchor - float(each.values.mean())
        return drops

    def flips(self, token: int, k: float) -> bool:
        """Whether this trial flipped the prediction."""
        return self.readings[token][k].flips(self.prediction)

    def log_ratio(self, token: int, k: float) -> float:
        """log P(prediction) - log P(best rival): smooth in k, negative exactly where the prediction has flipped."""
        reading = self.readings[token][k]
        ratio = _log(reading.base) - _log(reading.rival)
        return min(ratio, -TINY) if self.flips(token, k) else max(ratio, TINY)

    def first_to_flip(self) -> int | None:
        """The token seen to flip the prediction at the smallest scale; None where none was."""
        flipped = [(k, token) for token, tried in enumerate(self.readings) for k in tried if self.flips(token, k)]
        return min(flipped)[1] if flipped else None

    def non_monotone(self) -> int:
        """How many tokens were seen to flip the prediction at one scale and not at a larger one."""
        count = 0
        for token, tried in enumerate(self.readings):
            flips = [self.flips(token, k) for k in sorted(tried)]
            count += flips != sorted(flips)
        return count


def _log(probability: float) -> float:
    return math.log(max(probability, TINY))
