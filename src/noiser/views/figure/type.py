"""The type of a figure: which fonts there are, how wide text is in them, and what is shown of characters that none has."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from noiser.views.figure.flow import Look

FAMILY = "DejaVu Sans"
"""Comes with matplotlib, so a figure is the same wherever it is made."""
FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Noto Sans",
    "Noto Sans Devanagari",
    "Noto Sans Bengali",
    "Noto Sans Tamil",
    "Noto Sans Thai",
    "Noto Sans Symbols2",
    "Noto Emoji",
    "Segoe UI Symbol",
    "Symbola",
)
"""Asked in this order for the characters that `FAMILY` lacks, as far as they are installed."""
ELSEWHERE = ("Verdana", "sans-serif")
"""What an SVG asks for where `FAMILY` is not installed: Verdana is as wide."""


@dataclass(frozen=True)
class Typeface:
    """Measures text, and says how it is to be drawn."""

    keep: bool
    """Whether characters that no font here has are kept, for the reader's fonts (SVG); else each becomes its escape."""
    _widths: dict[tuple[str, Look], float] = field(default_factory=dict)
    _outlines: dict[tuple[str, Look], Any] = field(default_factory=dict)

    def shown(self, text: str, look: Look) -> str:
        """The text as it is drawn: every character is in one of the fonts, or left to the reader's."""
        if self.keep:
            return text
        return "".join(c if _has(c, look) else c.encode("unicode_escape").decode() for c in text)

    def width(self, text: str, look: Look) -> float:
        """How far the text reaches, in points; of characters that no font here has an estimate."""
        if (text, look) not in self._widths:
            known = "".join(c for c in text if _has(c, look))
            guessed = sum(_guess(c) for c in text if not _has(c, look)) if len(known) < len(text) else 0.0
            self._widths[text, look] = _measured(known, look) + guessed * look.size
        return self._widths[text, look]

    def outline(self, text: str, look: Look) -> Any:
        """The letters as a path, from the beginning of the baseline."""
        from matplotlib.path import Path
        from matplotlib.textpath import text_to_path

        if (text, look) not in self._outlines:
            points, codes = text_to_path.get_text_path(self.properties(look), text)
            self._outlines[text, look] = Path(points, codes).transformed(_scaled(look.size / text_to_path.FONT_SCALE))
        return self._outlines[text, look]

    def properties(self, look: Look) -> Any:
        """matplotlib's name for a look."""
        return _properties((FAMILY, *ELSEWHERE) if self.keep else (FAMILY, *installed()), look.size, look.bold, look.italic)


@cache
def installed() -> tuple[str, ...]:
    """The `FALLBACKS` that this machine has."""
    from matplotlib.font_manager import fontManager

    there = set(fontManager.get_font_names())
    return tuple(name for name in FALLBACKS if name in there)


def settings(base: Mapping[Any, Any]) -> dict[Any, Any]:
    """matplotlib's settings for a figure: text stays text in an SVG, and is embedded as TrueType in a PDF."""
    return {**base, "pdf.fonttype": 42, "font.sans-serif": [FAMILY]}


def _scaled(factor: float) -> Any:
    from matplotlib.transforms import Affine2D

    return Affine2D().scale(factor)


def _measured(text: str, look: Look) -> float:
    from matplotlib.textpath import text_to_path

    if not text:
        return 0.0
    return text_to_path.get_text_width_height_descent(text, _properties((FAMILY, *installed()), look.size, look.bold, look.italic), False)[
        0
    ]


@cache
def _properties(families: tuple[str, ...], size: float, bold: bool, italic: bool) -> Any:
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=list(families), style="italic" if italic else "normal", weight="bold" if bold else "normal", size=size)


def _has(character: str, look: Look) -> bool:
    return character.isascii() or any(ord(character) in _characters(family, look.bold, look.italic) for family in (FAMILY, *installed()))


@cache
def _characters(family: str, bold: bool, italic: bool) -> frozenset[int]:
    from matplotlib.font_manager import fontManager, get_font

    path = fontManager.findfont(_properties((family,), 10.0, bold, italic), fallback_to_default=False)
    return frozenset(get_font(path).get_charmap())


def _guess(character: str) -> float:
    """A character's width as a share of the type size."""
    if unicodedata.category(character).startswith("M"):
        return 0.0
    return 1.0 if unicodedata.east_asian_width(character) in "WF" else 0.64
