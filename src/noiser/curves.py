"""What is left of a prediction as its most important tokens go, and as only they stay: stored, so that it can be looked at later."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Curve:
    """The explained quantity of one target, at some numbers of tokens."""

    order: tuple[int, ...]
    """The tokens that come before the target, the one with the highest score first."""
    counts: tuple[int, ...]
    """How many of them, from none to all."""
    removed: tuple[float, ...]
    """The quantity when the first so many of the order are removed. The earlier it falls, the more faithful the order."""
    kept: tuple[float, ...]
    """The quantity when only the first so many are there. The earlier it rises, the more faithful the order."""
    operator: str = "zero"
    """What removing a token means: its embedding is zero."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
