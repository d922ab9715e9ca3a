"""The fonts of a figure: which are installed, how wide text is in them, and what stands for a character that no font has."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from noiser.views.figure.layout import TextStyle

FAMILY = "DejaVu Sans"
"""It comes with matplotlib, so a figure is the same on every machine."""
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
"""Fonts for characters that FAMILY lacks, in this order, if they are installed."""
SVG_FALLBACKS = ("Verdana", "sans-serif")
"""Named in an SVG for readers without FAMILY. Verdana is as wide."""


@dataclass(frozen=True)
class Typeface:
    """Measures text, and decides how it is drawn."""

    keep: bool
    """True (SVG): characters that no font here has stay, for the reader's fonts. False: each becomes its escape."""
    _widths: dict[tuple[str, TextStyle], float] = field(default_factory=dict)
    _outlines: dict[tuple[str, TextStyle], Any] = field(default_factory=dict)

    def drawable(self, text: str, style: TextStyle) -> str:
        """The text as it is drawn: every character is in one of the fonts, or is left to the reader's fonts."""
        if self.keep:
            return text
        return "".join(c if _has_glyph(c, style) else c.encode("unicode_escape").decode() for c in text)

    def width(self, text: str, style: TextStyle) -> float:
        """The width of the text in points. Characters that no font here has are estimated."""
        if (text, style) not in self._widths:
            known = "".join(c for c in text if _has_glyph(c, style))
            estimated = sum(_estimated_width(c) for c in text if not _has_glyph(c, style)) if len(known) < len(text) else 0.0
            self._widths[text, style] = _measured_width(known, style) + estimated * style.size
        return self._widths[text, style]

    def outline(self, text: str, style: TextStyle) -> Any:
        """The outlines of the letters, from the start of the baseline."""
        from matplotlib.path import Path
        from matplotlib.textpath import text_to_path

        if (text, style) not in self._outlines:
            points, codes = text_to_path.get_text_path(self.properties(style), text)
            self._outlines[text, style] = Path(points, codes).transformed(_scaling(style.size / text_to_path.FONT_SCALE))
        return self._outlines[text, style]

    def properties(self, style: TextStyle) -> Any:
        """The style as matplotlib's FontProperties."""
        return _properties((FAMILY, *SVG_FALLBACKS) if self.keep else (FAMILY, *installed()), style.size, style.bold, style.italic)


@cache
def installed() -> tuple[str, ...]:
    """The FALLBACKS that are installed on this machine."""
    from matplotlib.font_manager import fontManager

    names = set(fontManager.get_font_names())
    return tuple(name for name in FALLBACKS if name in names)


def settings(base: Mapping[Any, Any]) -> dict[Any, Any]:
    """matplotlib's settings for a figure: text stays text in an SVG, and fonts are embedded as TrueType in a PDF."""
    return {**base, "pdf.fonttype": 42, "font.sans-serif": [FAMILY]}


def _scaling(factor: float) -> Any:
    from matplotlib.transforms import Affine2D

    return Affine2D().scale(factor)


def _measured_width(text: str, style: TextStyle) -> float:
    from matplotlib.textpath import text_to_path

    if not text:
        return 0.0
    return text_to_path.get_text_width_height_descent(
        text, _properties((FAMILY, *installed()), style.size, style.bold, style.italic), False
    )[0]


@cache
def _properties(families: tuple[str, ...], size: float, bold: bool, italic: bool) -> Any:
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=list(families), style="italic" if italic else "normal", weight="bold" if bold else "normal", size=size)


def _has_glyph(character: str, style: TextStyle) -> bool:
    return character.isascii() or any(ord(character) in _characters(family, style.bold, style.italic) for family in (FAMILY, *installed()))


@cache
def _characters(family: str, bold: bool, italic: bool) -> frozenset[int]:
    from matplotlib.font_manager import fontManager, get_font

    path = fontManager.findfont(_properties((family,), 10.0, bold, italic), fallback_to_default=False)
    return frozenset(get_font(path).get_charmap())


def _estimated_width(character: str) -> float:
    """An estimate of a character's width, as a share of the font size."""
    if unicodedata.category(character).startswith("M"):
        return 0.0
    return 1.0 if unicodedata.east_asian_width(character) in "WF" else 0.64
