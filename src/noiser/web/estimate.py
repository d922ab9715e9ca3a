"""How long a method will take, learned from what it took before."""

import math
import threading
from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np

MOST = 500
"""Methods with options that are remembered."""
KEPT = 12
"""Observations of a method with certain options."""
REACH = 3.0
"""How many times longer or shorter than what was seen a prompt may be, for a guess to be worth saying."""


@dataclass(frozen=True)
class Seen:
    """What one method took for one prompt."""

    length: int
    """Tokens."""
    seconds: float
    """For one target."""
    forward_tokens: float
    """For one target."""


class Estimates:
    """What methods took, by method and options. Threads may share it."""

    def __init__(self) -> None:
        self._seen: defaultdict[str, deque[Seen]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._lock = threading.Lock()

    def learn(self, key: str, length: int, targets: int, seconds: float, forward_tokens: int) -> None:
        """One observation: `targets` rows of scores for `length` tokens."""
        with self._lock:
            if key not in self._seen and len(self._seen) >= MOST:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key].append(Seen(length, seconds / targets, forward_tokens / targets))

    def expected(self, key: str, length: int, targets: int) -> Seen | None:
        """What so many targets will take in all; None where nothing comparable was seen.

        From the observation of the nearest length, scaled by a power of the length: the one that fits what was seen, at least
        1 and at most 2, and 2 (what most methods cost) where only one length was.
        """
        with self._lock:
            seen = list(self._seen.get(key, ()))
        nearest = min(reversed(seen), key=lambda each: abs(math.log(length / each.length)), default=None)
        if nearest is None or not 1 / REACH <= length / nearest.length <= REACH:
            return None
        scale = targets * (length / nearest.length) ** _power(seen)
        return Seen(length, nearest.seconds * scale, nearest.forward_tokens * scale)


def _power(seen: list[Seen]) -> float:
    usable = [each for each in seen if each.forward_tokens > 0]
    if len({each.length for each in usable}) < 2:
        return 2.0
    lengths, tokens = (np.log([float(getattr(each, name)) for each in usable]) for name in ("length", "forward_tokens"))
    return float(np.clip(np.polyfit(lengths, tokens, 1)[0], 1.0, 2.0))
