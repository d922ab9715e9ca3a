"""Searches for the largest scale of noise at which no token flips the prediction.

Scales lie on a grid: `index * unit`, index from 0 to 2^levels. A search returns an index `low`: no token flips at `low`, and
some token flips at `low + 1`. At the upper end of the grid no token flipped.
"""

from collections.abc import Sequence

from noiser.methods.base import Steps
from noiser.methods.noiser.evaluations import NoiseEvaluations

POWER = 1.5
"""The log-ratio falls from the clean run like k to this power: noise of mean zero acts first through its square."""
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
        return _extrapolate(values, low) if high is None else _interpolate(values, low, high)

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
            guess = max(_extrapolate(values, low), low * (1 + 0.05 * 2**stale)) if low else (self.top + 1) / 2
            return min(max(round(guess), low + 1), self.top)
        guess = _interpolate(values, low, high)
        if stale >= 5 or len(values) > PATIENCE:
            guess = (low + high) / 2
        elif stale >= 2:
            beyond = 2 ** (stale - 2) * max(1.0, 0.04 * (high - low))
            guess += -beyond if signs[-1] else beyond + 1
        return min(max(int(guess), low + 1), high - 1)


def _extrapolate(values: dict[int, float], low: int) -> float:
    """Without a flip yet: follow the power law through the clean run and the highest tried index, up to three times as far."""
    drop = values[0] - values[low]
    if low == 0 or drop <= 0.02 * values[0]:
        return 2.5 * low
    return min(low * (values[0] / drop) ** (1 / POWER), 3.0 * low)


def _interpolate(values: dict[int, float], low: int, high: int) -> float:
    """Between two tried indices: inverse quadratic through a third one if the result stays inside, else the secant."""
    if low == 0:
        return high * (values[0] / (values[0] - values[high])) ** (1 / POWER)
    a, b = values[low], values[high]
    secant = low + (high - low) * a / (a - b)
    third = min((i for i in values if i not in (0, low, high)), key=lambda i: min(abs(i - low), abs(i - high)), default=None)
    if third is None or (c := values[third]) in (a, b):
        return secant
    curve = low * b * c / ((a - b) * (a - c)) + high * a * c / ((b - a) * (b - c)) + third * a * b / ((c - a) * (c - b))
    return curve if low < curve < high else secant


SUSPECTS = 4
"""The number of tokens with the steepest gradients that are tried first, with the last two tokens, which cost little."""
FIRST_GUESS = 0.75
"""The first scale, as a share of the scale at which a straight line along the gradient loses the prediction."""
ROUGH = 1.12
"""A token's bracket is narrowed to this high / low before other tokens are tried at its scale."""
NEAR = 1.5
"""A token that should flip below NEAR times the current scale is tried there before the bracket is narrowed further."""


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


def fast_minimum(evaluations: NoiseEvaluations, order: Sequence[int], levels: int, unit: float, first: float) -> Steps[int]:
    """The result of `exact_minimum` for monotone flips, with few rows.

    Narrow the crossing of the token that should flip first, then try all others there. `first` is the scale tried first. If
    no other token flips at the crossing, the last sweep is also the scoring pass.
    """
    crossings = [Crossing(evaluations, token, levels, unit) for token in range(evaluations.seq)]
    suspects = list(dict.fromkeys([*order[:SUSPECTS], *range(evaluations.seq - 1, max(-1, evaluations.seq - 3), -1)]))
    start = min(max(round(first / unit), 1), crossings[0].top)
    yield from evaluations.run((token, start * unit) for token in suspects)
    while True:
        lead = crossings[min(suspects, key=lambda token: crossings[token].expected)]
        yield from lead.narrow(ROUGH)
        rivals = [token for token in suspects if token != lead.token and crossings[token].expected < NEAR * lead.low]
        if (yield from evaluations.flipping(rivals, lead.low * unit)):
            continue
        yield from lead.narrow(1.0)
        queue = sorted(order, key=lambda token: crossings[token].expected)
        below = (yield from first_flipping(evaluations, queue, lead.low * unit)) if lead.low else []
        if not below:
            return lead.low
        suspects = list(dict.fromkeys([*suspects, *below]))


def separate_crossings(evaluations: NoiseEvaluations, levels: int, unit: float) -> Steps[list[int]]:
    """The result of `separate_minima` for monotone flips. All tokens are interpolated side by side."""
    crossings = [Crossing(evaluations, token, levels, unit) for token in range(evaluations.seq)]
    while pairs := [(c.token, index * unit) for c in crossings if (index := c.next_index(1.0)) is not None]:
        yield from evaluations.run(pairs)
    return [crossing.low for crossing in crossings]


def first_flipping(evaluations: NoiseEvaluations, queue: Sequence[int], k: float) -> Steps[list[int]]:
    """Try `k` on the tokens in order, in growing groups. Returns the flipping tokens of the first group that has any.

    If no token flips, `k` is probably the scale of the scores, so each token runs beside its anchor.
    """
    size = SUSPECTS
    while queue:
        below = yield from evaluations.flipping(queue[:size], k, anchor=True)
        if below:
            return below
        queue, size = queue[size:], 2 * size
    return []
