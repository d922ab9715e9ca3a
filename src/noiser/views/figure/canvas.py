"""What a figure is made of, and its way to a file: rectangles and words in their places, in points from the top left."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

from noiser.errors import OptionError
from noiser.views.figure.flow import Colour, Look
from noiser.views.figure.type import Typeface, settings
from noiser.views.plots import SETTINGS

DPI, FEWEST_DPI, MOST_PIXELS = 300, 50, 30_000
"""Of a PNG; one that would be higher than so many pixels gets fewer to an inch."""
UNDATED: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
"""So that the same figure gives the same bytes."""


@dataclass(frozen=True)
class Block:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: Colour
    radius: float = 0.0


@dataclass(frozen=True)
class Words:
    """Text that begins at `x`, its baseline at `y`."""

    x: float
    y: float
    text: str
    look: Look


def render(marks: Sequence[Block | Words], size: tuple[float, float], form: str, typeface: Typeface, title: str) -> bytes:
    """The marks, in their order, as a file's content: SVG, PNG or PDF of `size` (points), with `title` as its title.

    Raises OptionError for a PNG that could not be read for its length.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    inches = size[0] / 72, size[1] / 72
    dpi = min(DPI, MOST_PIXELS / inches[1])
    if form == "png" and dpi < FEWEST_DPI:
        raise OptionError(f"this figure is {inches[1]:.0f} inches high, too much for a PNG that can be read; take svg or pdf")
    data = BytesIO()
    with rc_context(settings(SETTINGS)):
        figure = Figure(figsize=inches, dpi=dpi, facecolor="white")
        figure.add_artist(_artist(marks, typeface, outlined=form == "png"))
        figure.savefig(data, format=form, dpi=dpi, metadata={**UNDATED[form], "Title": title})
    return data.getvalue()


def _artist(marks: Sequence[Block | Words], typeface: Typeface, *, outlined: bool) -> Any:
    """All marks as one artist: thousands of matplotlib's own would each be laid out once more."""
    from matplotlib.artist import Artist

    class Marks(Artist):
        def draw(self, renderer: Any) -> None:
            for mark in marks:
                _block(renderer, mark) if isinstance(mark, Block) else _words(renderer, mark, typeface, outlined=outlined)

    return Marks()


def _block(renderer: Any, block: Block) -> None:
    pen = renderer.new_gc()
    pen.set_linewidth(0)
    renderer.draw_path(pen, _outline(block.width, block.height, block.radius), _at(renderer, block.x, block.y + block.height), block.colour)
    pen.restore()


def _words(renderer: Any, words: Words, typeface: Typeface, *, outlined: bool) -> None:
    """As text; or as the letters' outlines, which a PNG shows the same, in a fifth of the time."""
    text = words.text.replace("  ", "\u00a0\u00a0")
    if not text.strip():
        return
    pen = renderer.new_gc()
    if outlined:
        pen.set_linewidth(0)
        renderer.draw_path(pen, typeface.outline(text, words.look), _at(renderer, words.x, words.y), words.look.colour)
    else:
        pen.set_foreground(words.look.colour)
        height = renderer.get_canvas_width_height()[1]
        y = words.y if renderer.flipy() else height - words.y
        renderer.draw_text(pen, words.x, y, text, typeface.properties(words.look), 0.0)
    pen.restore()


def _at(renderer: Any, x: float, y: float) -> Any:
    """From points, upwards from a place on the page, to the renderer's units, upwards from the bottom left."""
    from matplotlib.transforms import Affine2D

    scale, height = renderer.points_to_pixels(1.0), renderer.get_canvas_width_height()[1]
    return Affine2D.from_values(scale, 0.0, 0.0, scale, x * scale, height - y * scale)


@lru_cache(maxsize=10_000)
def _outline(width: float, height: float, radius: float) -> Any:
    """A rectangle with round corners, from the origin."""
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
