"""The largest scale of noise that flips the prediction nowhere.

Scales are cells of a grid: `index * unit`, index from 0 to 2^levels. A search returns `low`: no token flips at `low`, some
token flips at `low + 1` (at the top end of the grid: at none that was tried).
"""

from collections.abc import Sequence

from noiser.methods.base import Steps
from noiser.methods.noiser.trials import NoiseEvaluations

POWER = 1.5
"""How the log-ratio falls from the clean run on: like k to this power (noise of mean zero acts first through its square)."""

PATIENCE = 12
"""Scales after which interpolation is given up for halving: it creeps where the log-ratio is flat on one side of the flip."""


class Crossing:
    """One token on a grid of scales `index * unit`: what was tried there, and the cell in which the flip must lie."""

    def __init__(self, trials: NoiseEvaluations, token: int, levels: int, unit: float) -> None:
        self.trials, self.token, self.unit = trials, token, unit
        self.top = 2**levels - 1
        """The highest index that may be tried."""

    @property
    def values(self) -> dict[int, float]:
        """The log-ratio at each index in the order tried, the clean run first; negative where the prediction flips."""
        tried = {round(k / self.unit): self.trials.log_ratio(self.token, k) for k in self.trials.scales(self.token)}
        return {0: self.trials.clean_log_ratio} | {index: value for index, value in tried.items() if index}

    @property
    def low(self) -> int:
        """The highest index tried without a flip, below every flip."""
        return self._bracket(self.values)[0]

    @property
    def expected(self) -> float:
        """The index at which the flip is expected; infinite where nothing tells or the top was reached without one."""
        values = self.values
        low, high = self._bracket(values)
        if low >= self.top or len(values) == 1:
            return float("inf")
        return _extrapolate(values, low) if high is None else _interpolate(values, low, high)

    def close_in(self, ratio: float) -> Steps[None]:
        """Try scales until `next_index(ratio)` wants no more."""
        while (index := self.next_index(ratio)) is not None:
            yield from self.trials.run([(self.token, index * self.unit)])

    def next_index(self, ratio: float) -> int | None:
        """The index to try next; None once high / low is below `ratio`, or one cell is left, or the top did not flip."""
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
        """The index to try next: where the flip is expected, a step beyond it if the same side was hit twice running."""
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
    """No flip seen yet: follow the power law through the clean run and the highest index tried, three times as far at most."""
    drop = values[0] - values[low]
    if low == 0 or drop <= 0.02 * values[0]:
        return 2.5 * low
    return min(low * (values[0] / drop) ** (1 / POWER), 3.0 * low)


def _interpolate(values: dict[int, float], low: int, high: int) -> float:
    """Between two tried indices: inverse quadratic through a third where that stays inside, else the secant."""
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
"""How many tokens of steepest gradient are tried first; the last two tokens, which cost next to nothing, go with them."""
FIRST_GUESS = 0.75
"""The first scale tried, as a share of where a straight line along the gradient would lose the prediction."""
ROUGH = 1.12
"""How narrow (high / low) a token's bracket gets before others are tried against it."""
NEAR = 1.5
"""A token expected to flip below NEAR times the current scale is tried there before the bracket is narrowed further."""


def exact_minimum(trials: NoiseEvaluations, order: Sequence[int], levels: int, unit: float) -> Steps[int]:
    """The minimum of what separate bisections of [0, 2^levels] return for each token, whatever the shape of the flips.

    Every midpoint a token would have to pass is either tried, or cannot matter: a token that does not flip at the lowest
    of several midpoints at which another token went down has itself turned up there or at one before, so it ends higher.
    """
    low, width = 0, 2**levels
    candidates = list(order)
    while width > 1:
        guess, *others = candidates
        passed: list[int] = []
        while width > 1 and (yield from trials.flipping([guess], (low + width // 2) * unit)):
            passed.append(low + width // 2)
            width //= 2
        for middle in reversed(passed if width > 1 else []):
            others = yield from trials.flipping(others, middle * unit)
        if width > 1:
            middle = low + width // 2
            below = yield from trials.flipping(others, middle * unit)
            candidates = below or [guess, *others]
            low, width = (low if below else middle), width // 2
    return low


def separate_minima(trials: NoiseEvaluations, levels: int, unit: float) -> Steps[list[int]]:
    """What a bisection of its own returns for each token."""
    lows = [0] * trials.seq
    for level in range(levels):
        half = 2 ** (levels - level - 1)
        yield from trials.run((token, (low + half) * unit) for token, low in enumerate(lows))
        lows = [low if trials.flips(token, (low + half) * unit) else low + half for token, low in enumerate(lows)]
    return lows


def fast_minimum(trials: NoiseEvaluations, order: Sequence[int], levels: int, unit: float, first: float) -> Steps[int]:
    """The same under monotone flips, in few trials: narrow the most suspicious token's crossing, then try all others there.

    `first` is the scale tried first. When no other token flips at the crossing, that last sweep is the scoring pass.
    """
    crossings = [Crossing(trials, token, levels, unit) for token in range(trials.seq)]
    suspects = list(dict.fromkeys([*order[:SUSPECTS], *range(trials.seq - 1, max(-1, trials.seq - 3), -1)]))
    start = min(max(round(first / unit), 1), crossings[0].top)
    yield from trials.run((token, start * unit) for token in suspects)
    while True:
        lead = crossings[min(suspects, key=lambda token: crossings[token].expected)]
        yield from lead.close_in(ROUGH)
        rivals = [token for token in suspects if token != lead.token and crossings[token].expected < NEAR * lead.low]
        if (yield from trials.flipping(rivals, lead.low * unit)):
            continue
        yield from lead.close_in(1.0)
        queue = sorted(order, key=lambda token: crossings[token].expected)
        below = (yield from first_flipping(trials, queue, lead.low * unit)) if lead.low else []
        if not below:
            return lead.low
        suspects = list(dict.fromkeys([*suspects, *below]))


def separate_crossings(trials: NoiseEvaluations, levels: int, unit: float) -> Steps[list[int]]:
    """What separate bisections return under monotone flips, all tokens interpolated side by side."""
    crossings = [Crossing(trials, token, levels, unit) for token in range(trials.seq)]
    while wanted := [(c.token, index * unit) for c in crossings if (index := c.next_index(1.0)) is not None]:
        yield from trials.run(wanted)
    return [crossing.low for crossing in crossings]


def first_flipping(trials: NoiseEvaluations, queue: Sequence[int], k: float) -> Steps[list[int]]:
    """Try `k` on the tokens in their order, in growing groups; those that flip in the first group in which any does.

    Where none does, `k` is likely the scale to score at, so each is tried beside its anchor.
    """
    size = SUSPECTS
    while queue:
        below = yield from trials.flipping(queue[:size], k, anchor=True)
        if below:
            return below
        queue, size = queue[size:], 2 * size
    return []
