"""How a score looks: orange supports, blue opposes, grey is next to nothing."""

from rich.color import Color
from rich.style import Style

SUPPORTS, NEUTRAL, OPPOSES = (255, 120, 0), (200, 200, 200), (70, 150, 255)
"""Orange and blue on grey: told apart by the colour-blind, and about equally bright on light and dark terminals."""
BAR = 24


def blend(share: float) -> Color:
    """From grey at 0 to orange at 1 and blue at -1."""
    end = SUPPORTS if share >= 0 else OPPOSES
    return Color.from_rgb(*(a + (b - a) * min(1.0, abs(share)) for a, b in zip(NEUTRAL, end, strict=True)))


def style(share: float, special: bool) -> Style:
    """A background for what counts; special tokens dim, tokens next to zero plain."""
    if abs(share) < 0.04:
        return Style(dim=special)
    return Style(color="black", bgcolor=blend(share), italic=special)


def bar(share: float) -> str:
    """Full blocks where a token supports the target, shaded ones where it opposes it."""
    eighths = round(abs(share) * BAR * 8)
    if share < 0:
        return "\u2592" * max(1, eighths // 8)
    return "\u2588" * (eighths // 8) + (chr(0x2590 - eighths % 8) if eighths % 8 else "")
