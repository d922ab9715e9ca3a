"""The colours of scores: orange supports the target, blue opposes it, grey has next to no influence."""

from rich.color import Color
from rich.style import Style

SUPPORTS, NEUTRAL, OPPOSES = (255, 120, 0), (200, 200, 200), (70, 150, 255)
"""Red, green, blue. Colour-blind readers can tell them apart, and they are about equally bright on light and dark terminals."""
BAR_WIDTH = 24
"""Characters of the longest bar."""
MIN_SHARE = 0.04
"""Tokens with a smaller share of the largest score get no background."""


def blend(share: float) -> Color:
    """The colour of a share in [-1, 1]: from grey at 0 to orange at 1 and blue at -1."""
    end = SUPPORTS if share >= 0 else OPPOSES
    return Color.from_rgb(*(a + (b - a) * min(1.0, abs(share)) for a, b in zip(NEUTRAL, end, strict=True)))


def style(share: float, special: bool) -> Style:
    """A background for a token. Special tokens are italic, or dim if they have no background."""
    if abs(share) < MIN_SHARE:
        return Style(dim=special)
    return Style(color="black", bgcolor=blend(share), italic=special)


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """A bar of full blocks for a token that supports the target, of shaded blocks for one that opposes it."""
    eighths = round(abs(share) * width * 8)
    if share < 0:
        return "\u2592" * max(1, eighths // 8)
    return "\u2588" * (eighths // 8) + (chr(0x2590 - eighths % 8) if eighths % 8 else "")
