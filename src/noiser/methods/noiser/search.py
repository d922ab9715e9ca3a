"""Searches for the largest scale of noise at which no token flips the prediction.

Scales lie on a grid: `index * unit`, index from 0 to 2^levels. A search returns an index `low`: no token flips at `low`, and
some token flips at `low + 1`. At the upper end of the grid no token flipped.
"""

import math
from collections.abc import Iterator, Sequence

from noiser.methods.base import Steps
from noiser.methods.noiser.evaluations import NoiseEvaluations

POWER = 1.5
"""The log-ratio falls from the clean run like k to this power: noise of mean zero acts first through its square."""
FLAT = 0.02
"""A log-ratio that has lost a smaller share of itself says nothing about where it will be 0."""
CLOSE = 8
"""In a bracket of this many cells or fewer, the curve is trusted."""
PATIENCE = 12
"""After this many scales halving replaces interpolation, which is slow if the log-ratio is flat on one side of the flip."""


class Crossing:
    """The search for one token's flip on the grid `index * unit`: what was tried, and between which indices the flip lies."""

    def __init__(self, evaluations: NoiseEvaluations, token: int, levels: int, unit: float) -> None:
        self.evaluations, self.token, self.unit = evaluations, token, unit
        self.top = 2**levels - 1
        """The highest index to try."""

    @property
    def values(self) -> dict[int, float]:
        """The log-ratio at each index in the order of trying, the clean run first. It is negative if the prediction flips."""
        by_index = {round(k / self.unit): self.evaluations.log_ratio(self.token, k) for k in self.evaluations.scales(self.token)}
        return {0: self.evaluations.clean_log_ratio} | {index: value for index, value in by_index.items() if index}

    @property
    def low(self) -> int:
        """The highest tried index below every flip."""
        return self._bracket(self.values)[0]

    @property
    def expected(self) -> float:
        """The index at which the flip is expected. Infinite if nothing was tried, or if the top index did not flip."""
        values = self.values
        low, high = self._bracket(values)
        if low >= self.top or len(values) == 1:
            return float("inf")
        return _crossing(values, low, high)

    def narrow(self, ratio: float) -> Steps[None]:
        """Try scales until `next_index(ratio)` is None."""
        while (index := self.next_index(ratio)) is not None:
            yield from self.evaluations.run([(self.token, index * self.unit)])

    def next_index(self, ratio: float) -> int | None:
        """The index to try next. None if high / low is below `ratio`, if only one cell is left, or if the top did not flip."""
        values = self.values
        low, high = self._bracket(values)
        if low >= self.top or (high is not None and (high - low <= 1 or high < ratio * low)):
            return None
        return self._next(values, low, high)

    @staticmethod
    def _bracket(values: dict[int, float]) -> tuple[int, int | None]:
        flipped = [index for index, value in values.items() if value < 0]
        high = min(flipped, default=None)
        return max(index for index, value in values.items() if value >= 0 and (high is None or index < high)), high

    def _next(self, values: dict[int, float], low: int, high: int | None) -> int:
        """The index to try next: the expected flip, or a step beyond it if two tries in a row were on the same side."""
        signs = [value < 0 for value in list(values.values())[1:]]
        stale = next((n for n, sign in enumerate(reversed(signs)) if sign != signs[-1]), len(signs))
        if high is None:
            guess = max(_crossing(values, low, high), low * (1 + 0.05 * 2**stale)) if low else (self.top + 1) / 2
            return min(max(round(guess), low + 1), self.top)
        guess = _crossing(values, low, high)
        if stale >= 5 or len(values) > PATIENCE:
            guess = (low + high) / 2
        elif stale >= 2 and not low:
            guess = min(guess, high / (1.1 + 0.3 * (stale - 2)))
        elif stale >= 2 and high - low > CLOSE:
            beyond = 2 ** (stale - 2) * max(1.0, 0.03 * (high - low))
            guess += -beyond if signs[-1] else beyond + 1
        return min(max(int(guess), low + 1), high - 1)


def _crossing(values: dict[int, float], low: int, high: int | None) -> float:
    """Where the log-ratio is expected to be 0: between `low` and `high`, or without a flip yet at most 3 times `low`.

    The logarithm of what the log-ratio has lost is smooth in the logarithm of the scale, nearly a straight line. So the scale is read
    off a curve through three tried ones, else a line through two, else a line of slope POWER through one.
    """
    clean = values[0]
    lost = {math.log(index): math.log(clean - value) for index, value in values.items() if index and clean - value > FLAT * clean}
    if high is None and math.log(low) not in lost:
        return 4.0 * low
    ends = [math.log(index) for index in (low, high) if index and math.log(index) in lost]
    others = sorted(lost.keys() - set(ends), key=lambda scale: abs(scale - sum(ends) / len(ends)))
    highest = float(high) if high is not None else 3.0 * low
    for guess in _guesses([(scale, lost[scale]) for scale in [*ends, *others]], math.log(clean)):
        if low < math.exp(min(guess, 20.0)) < highest:
            return math.exp(guess)
    return highest if high is None else math.sqrt(max(low, 1) * high)


def _guesses(points: list[tuple[float, float]], wanted: float) -> Iterator[float]:
    """The argument at which the function of these points has the value `wanted`: from three points, from two, from one."""
    if len(points) > 2 and len({value for _, value in points[:3]}) == 3:
        (a, fa), (b, fb), (c, fc) = points[:3]
        yield (
            a * (wanted - fb) * (wanted - fc) / ((fa - fb) * (fa - fc))
            + b * (wanted - fa) * (wanted - fc) / ((fb - fa) * (fb - fc))
            + c * (wanted - fa) * (wanted - fb) / ((fc - fa) * (fc - fb))
        )
    (a, fa), *more = points
    if more and (slope := (fa - more[0][1]) / (a - more[0][0])) > 0:
        yield a + (wanted - fa) / min(max(slope, POWER / 2), 2.5 * POWER)
    yield a + (wanted - fa) / POWER


LATE = 2
"""The number of tokens at the end of the prompt that are tried first. Their rows cost least, and often they flip first."""
FIRST_GUESS = 1.6
"""The first scale, as a share of the scale at which a straight line along the steepest gradient loses the prediction."""
ROUGH = 1.12
"""A token's bracket is narrowed to this high / low before other tokens are tried at its scale."""
NEAR = 1.5
"""A token that should flip below NEAR times the current scale is tried there before the bracket is narrowed further."""
FEW = 1
"""The number of draws that are tried on all tokens first. They say which tokens may flip before the others."""
SINGLE = 3
"""The number of tokens that a sweep tries one by one, before its groups grow."""


def exact_minimum(evaluations: NoiseEvaluations, order: Sequence[int], levels: int, unit: float) -> Steps[int]:
    """The minimum of separate bisections of [0, 2^levels] for each token. It is exact for flips of any shape.

    A midpoint that a token would have to pass is tried, or cannot matter: if another token went down at several midpoints and
    this token does not flip at the lowest of them, its own bisection went up there or before, so it ends higher.
    """
    low, width = 0, 2**levels
    candidates = list(order)
    while width > 1:
        guess, *others = candidates
        passed: list[int] = []
        while width > 1 and (yield from evaluations.flipping([guess], (low + width // 2) * unit)):
            passed.append(low + width // 2)
            width //= 2
        for middle in reversed(passed if width > 1 else []):
            others = yield from evaluations.flipping(others, middle * unit)
        if width > 1:
            middle = low + width // 2
            below = yield from evaluations.flipping(others, middle * unit)
            candidates = below or [guess, *others]
            low, width = (low if below else middle), width // 2
    return low


def separate_minima(evaluations: NoiseEvaluations, levels: int, unit: float) -> Steps[list[int]]:
    """The result of a separate bisection for each token."""
    lows = [0] * evaluations.seq
    for level in range(levels):
        half = 2 ** (levels - level - 1)
        yield from evaluations.run((token, (low + half) * unit) for token, low in enumerate(lows))
        lows = [low if evaluations.flips(token, (low + half) * unit) else low + half for token, low in enumerate(lows)]
    return lows


class _Crossings:
    """Where each token is expected to flip, as far as it was tried: with all draws, or with the first FEW."""

    def __init__(self, evaluations: NoiseEvaluations, levels: int, unit: float) -> None:
        self.evaluations, self.unit = evaluations, unit
        few = evaluations.first(FEW) if evaluations.noise.draws > 2 * FEW else None
        self.all_draws = [Crossing(evaluations, token, levels, unit) for token in range(evaluations.seq)]
        self.few_draws = [Crossing(few, token, levels, unit) for token in range(evaluations.seq)] if few else []

    @property
    def lead(self) -> Crossing:
        """The token that should flip first, of those that something is known about."""
        known = [token for token in range(self.evaluations.seq) if self.is_tried(token) or self.expected(token) < math.inf]
        return self.all_draws[min(known, key=lambda token: (self.expected(token), not self.is_tried(token)))]

    def is_tried(self, token: int) -> bool:
        """Whether the token was tried with all draws."""
        return bool(self.evaluations.readouts[token])

    def expected(self, token: int) -> float:
        """The index at which the token is expected to flip. Infinite if it was not tried, and if the first draws alone do not flip it."""
        if self.is_tried(token) or not self.few_draws:
            return self.all_draws[token].expected
        flips = any(value < 0 for value in self.few_draws[token].values.values())
        return self.few_draws[token].expected if flips else math.inf

    def hint(self, token: int) -> tuple[float, float]:
        """A key that sorts tokens by what is known, then by what the first draws say."""
        return self.expected(token), self.few_draws[token].expected if self.few_draws else math.inf

    def try_expected(self, token: int) -> Steps[None]:
        """Try the token where the first draws alone say that it flips."""
        index = min(max(round(self.expected(token)), 1), self.all_draws[token].top)
        yield from self.evaluations.run([(token, index * self.unit)])

    def screen(self, k: float) -> Steps[None]:
        """Try all tokens that were not tried yet with the first draws alone."""
        if self.few_draws:
            yield from self.few_draws[0].evaluations.run((token, k) for token in range(self.evaluations.seq) if not self.is_tried(token))


def fast_minimum(evaluations: NoiseEvaluations, order: Sequence[int], levels: int, unit: float, first: float) -> Steps[int]:
    """The result of `exact_minimum` for monotone flips, with few rows.

    Try the scale `first` on the last tokens, and with few draws on all others. Narrow the crossing of the token that should flip
    first. Then try all others there, the likely ones first, until one flips. If none does, this sweep was also the scoring pass. If one
    flips, the search goes on with the token that should flip first now.
    """
    crossings, seq = _Crossings(evaluations, levels, unit), evaluations.seq
    start = min(max(round(first / unit), 1), crossings.all_draws[0].top)
    yield from evaluations.run((token, start * unit) for token in range(max(0, seq - LATE), seq))
    yield from crossings.screen(start * unit)
    while True:
        lead = crossings.lead
        if not crossings.is_tried(lead.token):
            yield from crossings.try_expected(lead.token)
            continue
        if (index := lead.next_index(ROUGH)) is not None:
            yield from evaluations.run([(lead.token, index * unit)])
            continue
        rivals = [token for token in range(seq) if token != lead.token and crossings.expected(token) < NEAR * lead.low]
        if (yield from first_flipping(evaluations, sorted(rivals, key=crossings.expected), lead.low * unit)):
            continue
        yield from lead.narrow(1.0)
        queue = sorted((token for token in order if token != lead.token), key=crossings.hint)
        if not lead.low or not (yield from first_flipping(evaluations, queue, lead.low * unit, anchor=True)):
            return lead.low
        yield from crossings.screen(lead.low * unit)


def separate_crossings(evaluations: NoiseEvaluations, levels: int, unit: float) -> Steps[list[int]]:
    """The result of `separate_minima` for monotone flips. All tokens are interpolated side by side."""
    crossings = [Crossing(evaluations, token, levels, unit) for token in range(evaluations.seq)]
    while pairs := [(c.token, index * unit) for c in crossings if (index := c.next_index(1.0)) is not None]:
        yield from evaluations.run(pairs)
    return [crossing.low for crossing in crossings]


def first_flipping(evaluations: NoiseEvaluations, queue: Sequence[int], k: float, *, anchor: bool = False) -> Steps[list[int]]:
    """Try `k` on the tokens in order, the first ones alone, then in growing groups. Returns the flipping tokens of the first group
    that has any. With `anchor` each row that may be a score has its anchor beside it.
    """
    for group in _groups(queue):
        below = yield from evaluations.flipping(group, k, anchor)
        if below:
            return below
    return []


def _groups(queue: Sequence[int]) -> Iterator[Sequence[int]]:
    """The first SINGLE one by one, the others in groups of 2, 4, 8, ..."""
    size, start = 1, 0
    while start < len(queue):
        yield queue[start : start + size]
        start += size
        size = 1 if start < SINGLE else 2 * size
