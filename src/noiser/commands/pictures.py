"""A result as a page or a figure, for the commands that explain."""

from collections.abc import Sequence
from typing import Any

from noiser.results.attribution import Attribution, Comparison
from noiser.views.viewer import page
from noiser.views.viewer.data import View, view

Result = Attribution | Comparison


def drawn(result: Result, form: str, normalization: str, by: str | None) -> bytes:
    """As `html`, `svg` or `png`. A page shows every unit; `normalization` and `by` are for figures."""
    if form == "html":
        return pages([view(result)])
    from noiser.views.figure.figure import figure

    chosen: Any = form
    return figure(result, chosen, normalization=normalization, by=by)


def named(result: Result, name: str) -> View:
    """What a page shows of it, under that name and its title."""
    found = view(result)
    return found | {"title": f"{name}: {found['title']}"}


def pages(views: Sequence[View]) -> bytes:
    """One page for all of them."""
    title = views[0]["title"] if len(views) == 1 else f"noiser: {len(views)} prompts"
    return page(views, title).encode()
