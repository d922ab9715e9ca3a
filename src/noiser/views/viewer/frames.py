"""A result as a page, and as a frame in a notebook."""

from html import escape

from noiser.results.attribution import Attribution, Comparison
from noiser.results.evaluation import Evaluation
from noiser.views.viewer import page
from noiser.views.viewer.data import view

ALLOWED = "allow-scripts allow-downloads allow-modals"
"""What the frame's page may do: run its script, save files. It has no origin, so it reaches nothing of the notebook."""


def to_page(result: Attribution | Comparison, evaluation: Evaluation | None = None) -> str:
    """One HTML file with the result in it."""
    drawn = view(result, evaluation)
    return page([drawn], drawn["title"])


def to_frame(result: Attribution | Comparison) -> str:
    """The page inside a frame: as many as one likes in a notebook, none of which sees the others or the notebook."""
    each = result.attributions if isinstance(result, Comparison) else (result,)
    height = _height(len(each[0].prompt.text), len(each))
    document = escape(to_page(result), quote=True)
    return (
        f'<iframe title="noiser: {escape(view(result)["title"], quote=True)}" srcdoc="{document}" sandbox="{ALLOWED}" '
        f'allow="clipboard-write" loading="lazy" style="width:100%;height:{height}px;border:0;resize:vertical;overflow:auto"></iframe>'
    )


def _height(characters: int, methods: int) -> int:
    """About what the page needs without a scroll bar, within limits; the frame can be made larger by hand."""
    lines = 1 + characters // 90
    return min(900, 420 + methods * (40 + 34 * lines))
