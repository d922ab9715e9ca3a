"""How results show themselves: printed, in a notebook, as a page, as a figure. The views say how, because imports point one way."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from noiser.errors import OptionError
from noiser.places import write_whole

VIEWS: dict[str, Callable[..., Any]] = {}
"""What `noiser.views` offers, by name; it enters itself when it is imported."""
FIGURES = ("svg", "png", "pdf")


class Showable:
    """A result that is looked at: an Attribution or a Comparison."""

    def save_html(self, path: str | Path, evaluation: Any = None) -> Path:
        """Write a page that shows the result: one file that needs no network, to be opened in any browser, or mailed.

        With an `evaluation` (of the same methods, by `noiser.evaluate`) its tables stand beside the scores; with removal curves
        (`noiser.with_curves`) the page shows them. A file of that name is replaced once the new one is whole. The path.
        """
        return write_whole(path, _view("page")(self, evaluation).encode())

    def save_figure(self, path: str | Path, *, normalization: str = "none", by: str | None = None) -> Path:
        """Write the heat map as a figure for a paper, in the form that the path ends with: svg, png or pdf. The path.

        `by` sums the scores over words, sentences, lines or turns; see `noiser.units.units`. Raises OptionError for another ending.
        """
        form = Path(path).suffix[1:].lower()
        if form not in FIGURES:
            raise OptionError(f"a figure's name ends with .{', .'.join(FIGURES)}; got {str(path)!r}")
        return write_whole(path, _view("figure")(self, form, normalization=normalization, by=by))

    def _repr_html_(self) -> str:
        """In a notebook: the page in a frame of its own, so that neither the notebook's style nor another viewer touches it."""
        return _view("notebook")(self)


def _view(name: str) -> Callable[..., Any]:
    """A result that was read from a file may be shown before anybody imported the views."""
    import_module("noiser.views")
    return VIEWS[name]
