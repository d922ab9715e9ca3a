"""A result as an HTML page, and as a frame in a notebook."""

from html import escape

from noiser.results.attribution import Attribution, Comparison
from noiser.results.evaluation import Evaluation
from noiser.results.interactions import Interactions
from noiser.views.viewer.data import view
from noiser.views.viewer.page import page

SANDBOX = "allow-scripts allow-downloads allow-modals"
"""What the page in the frame may do: run its script, and save files. It has no origin, so it cannot reach the notebook."""


def to_page(result: Attribution | Comparison | Interactions, evaluation: Evaluation | None = None) -> str:
    """One HTML file that contains the result."""
    data = view(result, evaluation)
    return page([data], data["title"])


def to_frame(result: Attribution | Comparison | Interactions) -> str:
    """The page inside a frame. A notebook may hold many frames; no frame can see another one, or the notebook."""
    document, height = escape(to_page(result), quote=True), _height(result)
    return (
        f'<iframe title="noiser: {escape(view(result)["title"], quote=True)}" srcdoc="{document}" sandbox="{SANDBOX}" '
        f'allow="clipboard-write" loading="lazy" style="width:100%;height:{height}px;border:0;resize:vertical;overflow:auto"></iframe>'
    )


def _height(result: Attribution | Comparison | Interactions) -> int:
    """Pixels that the page needs without a scroll bar, at most 900. Readers can make the frame larger."""
    rows = result.attributions if isinstance(result, Comparison) else (result,)
    lines = 1 + len(rows[0].prompt.text) // 90
    return min(900, 620 + 90 * lines if isinstance(result, Interactions) else 420 + len(rows) * (40 + 34 * lines))
