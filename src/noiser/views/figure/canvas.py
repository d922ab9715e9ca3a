"""Rectangles and texts at their places, and how they become a file. Coordinates are points from the top left."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

from noiser.errors import OptionError
from noiser.views.figure.fonts import Typeface, settings
from noiser.views.figure.layout import Colour, TextStyle
from noiser.views.plots import SETTINGS

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
