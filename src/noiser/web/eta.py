"""Estimates of how long a method takes, from its earlier runs."""

import math
import threading
from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np

MAX_KEYS = 500
"""The most methods, each with its options, that are remembered."""
MAX_OBSERVATIONS = 12
"""The most observations that are kept for each method with its options."""
MAX_RATIO = 3.0
"""A prompt may be so many times longer or shorter than an observed one; else there is no estimate."""


@dataclass(frozen=True)
class MethodCost:
    """What one method takes for a prompt."""

    length: int
    """Tokens of the prompt."""
    seconds: float
    forward_tokens: float


class CostEstimates:
    """What methods took, by method and options. Threads may share it."""

    def __init__(self) -> None:
        self._observed: defaultdict[str, deque[MethodCost]] = defaultdict(lambda: deque(maxlen=MAX_OBSERVATIONS))
        """Costs of one target."""
        self._lock = threading.Lock()

    def observe(self, key: str, length: int, targets: int, seconds: float, forward_tokens: int) -> None:
        """Remember what a method took for `targets` targets of a prompt of `length` tokens."""
        with self._lock:
            if key not in self._observed and len(self._observed) >= MAX_KEYS:
                self._observed.pop(next(iter(self._observed)))
            self._observed[key].append(MethodCost(length, seconds / targets, forward_tokens / targets))

    def estimate(self, key: str, length: int, targets: int) -> MethodCost | None:
        """The cost of all targets; None if no prompt of a comparable length was observed.

        The estimate scales the observation of the nearest length by a power of the length. The power is fitted to the
        observations and clipped to [1, 2]. It is 2, the growth of most methods, if only one length was observed.
        """
        with self._lock:
            observations = list(self._observed.get(key, ()))
        nearest = min(reversed(observations), key=lambda cost: abs(math.log(length / cost.length)), default=None)
        if nearest is None or not 1 / MAX_RATIO <= length / nearest.length <= MAX_RATIO:
            return None
        scale = targets * (length / nearest.length) ** _fitted_power(observations)
        return MethodCost(length, nearest.seconds * scale, nearest.forward_tokens * scale)


def _fitted_power(observations: list[MethodCost]) -> float:
    usable = [cost for cost in observations if cost.forward_tokens > 0]
    if len({cost.length for cost in usable}) < 2:
        return 2.0
    lengths, tokens = (np.log([float(getattr(cost, name)) for cost in usable]) for name in ("length", "forward_tokens"))
    return float(np.clip(np.polyfit(lengths, tokens, 1)[0], 1.0, 2.0))
