"""How results show themselves: printed, in a notebook, as a page, as a figure. The views say how, because imports point one way."""

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from noiser.errors import OptionError
from noiser.storage import write_file

GROUP = "noiser.views"
"""The entry-point group under which views are registered, by name; `pyproject.toml` lists ours."""
FIGURES = ("svg", "png", "pdf")


class Showable:
    """A result that is looked at: an Attribution or a Comparison."""

    def save_html(self, path: str | Path, evaluation: Any = None) -> Path:
        """Write a page that shows the result: one file that needs no network, to be opened in any browser, or mailed.

        With an `evaluation` (of the same methods, by `noiser.evaluate`) its tables stand beside the scores; with removal curves
        (`noiser.with_curves`) the page shows them. A file of that name is replaced once the new one is whole. The path.
        """
        return write_file(path, view("page")(self, evaluation).encode())

    def save_figure(self, path: str | Path, *, normalization: str = "none", by: str | None = None) -> Path:
        """Write the heat map as a figure for a paper, in the form that the path ends with: svg, png or pdf. The path.

        `by` sums the scores over words, sentences, lines or turns; see `noiser.text.units.units`. Raises OptionError for another ending.
        """
        form = Path(path).suffix[1:].lower()
        if form not in FIGURES:
            raise OptionError(f"a figure's name ends with .{', .'.join(FIGURES)}; got {str(path)!r}")
        return write_file(path, view("figure")(self, form, normalization=normalization, by=by))

    def _repr_html_(self) -> str:
        """In a notebook: the page in a frame of its own, so that neither the notebook's style nor another viewer touches it."""
        return view("notebook")(self)


@cache
def view(name: str) -> Callable[..., Any]:
    """The view of that name. It is imported at the first use, so results import no view. Raises OptionError if it is not installed."""
    for entry in entry_points(group=GROUP, name=name):
        return entry.load()
    raise OptionError(f"no view {name!r} is installed: install noiser with pip, so that its entry points are registered")
