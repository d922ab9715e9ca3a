"""Rectangles and texts at their places, and how they become a file. Coordinates are points from the top left."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from io import BytesIO
from typing import Any

from noiser.errors import OptionError
from noiser.views.figure.layout import Colour, TextStyle
from noiser.views.plots import SETTINGS

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


DPI, MIN_DPI, MAX_PIXELS = 300, 50, 30_000
"""Resolution of a PNG. A PNG that would be higher than MAX_PIXELS gets a lower resolution, at least MIN_DPI."""
METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
"""Without a date, so that equal figures give equal bytes."""


@dataclass(frozen=True)
class Rectangle:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: Colour
    radius: float = 0.0


@dataclass(frozen=True)
class TextMark:
    """Text that starts at `x` with its baseline at `y`."""

    x: float
    y: float
    text: str
    style: TextStyle


def render(marks: Sequence[Rectangle | TextMark], size: tuple[float, float], form: str, typeface: Typeface, title: str) -> bytes:
    """The marks, drawn in their order, as the bytes of an SVG, PNG or PDF. `size` is in points.

    Raises OptionError for a PNG that is too long to be read.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    inches = size[0] / 72, size[1] / 72
    dpi = min(DPI, MAX_PIXELS / inches[1])
    if form == "png" and dpi < MIN_DPI:
        raise OptionError(f"this figure is {inches[1]:.0f} inches high, too much for a PNG that can be read; take svg or pdf")
    data = BytesIO()
    with rc_context(settings(SETTINGS)):
        figure = Figure(figsize=inches, dpi=dpi, facecolor="white")
        figure.add_artist(_artist(marks, typeface, outlined=form == "png"))
        figure.savefig(data, format=form, dpi=dpi, metadata={**METADATA[form], "Title": title})
    return data.getvalue()


def _artist(marks: Sequence[Rectangle | TextMark], typeface: Typeface, *, outlined: bool) -> Any:
    """All marks as one artist. matplotlib would lay out thousands of artists of its own once more."""
    from matplotlib.artist import Artist

    class Marks(Artist):
        def draw(self, renderer: Any) -> None:
            for mark in marks:
                _draw_rectangle(renderer, mark) if isinstance(mark, Rectangle) else _draw_text(renderer, mark, typeface, outlined=outlined)

    return Marks()


def _draw_rectangle(renderer: Any, rectangle: Rectangle) -> None:
    pen = renderer.new_gc()
    pen.set_linewidth(0)
    renderer.draw_path(
        pen,
        _outline(rectangle.width, rectangle.height, rectangle.radius),
        _at(renderer, rectangle.x, rectangle.y + rectangle.height),
        rectangle.colour,
    )
    pen.restore()


def _draw_text(renderer: Any, mark: TextMark, typeface: Typeface, *, outlined: bool) -> None:
    """Draw text as text, or as outlines: a PNG looks the same, and is drawn in a fifth of the time."""
    text = mark.text.replace("  ", "\u00a0\u00a0")
    if not text.strip():
        return
    pen = renderer.new_gc()
    if outlined:
        pen.set_linewidth(0)
        renderer.draw_path(pen, typeface.outline(text, mark.style), _at(renderer, mark.x, mark.y), mark.style.colour)
    else:
        pen.set_foreground(mark.style.colour)
        height = renderer.get_canvas_width_height()[1]
        y = mark.y if renderer.flipy() else height - mark.y
        renderer.draw_text(pen, mark.x, y, text, typeface.properties(mark.style), 0.0)
    pen.restore()


def _at(renderer: Any, x: float, y: float) -> Any:
    """The transform from points, relative to a place on the page, to the renderer's units from the bottom left."""
    from matplotlib.transforms import Affine2D

    scale, height = renderer.points_to_pixels(1.0), renderer.get_canvas_width_height()[1]
    return Affine2D.from_values(scale, 0.0, 0.0, scale, x * scale, height - y * scale)


@lru_cache(maxsize=10_000)
def _outline(width: float, height: float, radius: float) -> Any:
    """A rectangle with round corners; its bottom left is the origin."""
    from matplotlib.path import Path

    r = min(radius, width / 2, height / 2)
    if r <= 0:
        return Path([(0, 0), (width, 0), (width, height), (0, height), (0, 0)], closed=True)
    corners = [((width, 0), (-r, 0), (0, r)), ((width, height), (0, -r), (-r, 0)), ((0, height), (r, 0), (0, -r)), ((0, 0), (0, r), (r, 0))]
    points: list[tuple[float, float]] = [(r, 0)]
    codes: list[Any] = [Path.MOVETO]
    for (x, y), (dx, dy), (ex, ey) in corners:
        points += [(x + dx, y + dy), (x, y), (x + ex, y + ey)]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    return Path([*points, (0, 0)], [*codes, Path.CLOSEPOLY])
