"""Where one token's noise starts to flip the prediction, closed in on by interpolation."""

from noiser.methods.steps import Steps
from noiser.methods.trials import Trials

POWER = 1.5
"""How the log-ratio falls from the clean run on: like k to this power (noise of mean zero acts first through its square)."""

PATIENCE = 12
"""Scales after which interpolation is given up for halving: it creeps where the log-ratio is flat on one side of the flip."""


class Crossing:
    """One token on a grid of scales `index * unit`: what was tried there, and the cell in which the flip must lie."""

    def __init__(self, trials: Trials, token: int, levels: int, unit: float) -> None:
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
