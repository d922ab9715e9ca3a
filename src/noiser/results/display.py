"""Show a result: printed, in a notebook, as a page, as a figure. Views register by entry point, so results import no view."""

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from noiser.errors import OptionError
from noiser.storage import write_file

GROUP = "noiser.views"
"""The entry-point group under which views are registered, by name. `pyproject.toml` lists noiser's own views."""
FIGURES = ("svg", "png", "pdf")


class Showable:
    """A result that can be shown: an Attribution or a Comparison."""

    def save_html(self, path: str | Path, evaluation: Any = None) -> Path:
        """Write a page that shows the result, and return its path. The page is one file, needs no network and opens in any browser.

        With an `evaluation` (of the same methods, by `noiser.evaluate`) the page shows its tables beside the scores. With removal
        curves (`noiser.with_curves`) the page shows them. An existing file is replaced only after the new one is complete.
        """
        return write_file(path, view("page")(self, evaluation).encode())

    def save_figure(self, path: str | Path, *, normalization: str = "none", by: str | None = None) -> Path:
        """Write the heat map as a figure for a paper, and return its path. The path's ending selects the format: svg, png or pdf.

        `by` sums the scores over words, sentences, lines or turns; see `noiser.text.units.units`. Raises OptionError for another ending.
        """
        suffix = Path(path).suffix[1:].lower()
        if suffix not in FIGURES:
            raise OptionError(f"a figure's name ends with .{', .'.join(FIGURES)}; got {str(path)!r}")
        return write_file(path, view("figure")(self, suffix, normalization=normalization, by=by))

    def _repr_html_(self) -> str:
        """The page for a notebook, in its own frame. The frame keeps out the notebook's style and other viewers."""
        return view("notebook")(self)


@cache
def view(name: str) -> Callable[..., Any]:
    """The view of that name, imported at its first use. Raises OptionError if it is not installed."""
    for entry in entry_points(group=GROUP, name=name):
        return entry.load()
    raise OptionError(f"no view {name!r} is installed: install noiser with pip, so that its entry points are registered")
