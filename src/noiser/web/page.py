"""The app's page: one file, with its script and style inside and a policy that lets nothing else run."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from noiser.views.viewer import digest, page_parts

SCRIPTS = ("api.js", "form.js", "chat.js", "history.js", "app.js")
"""Behind the viewer's, in this order, and in the same scope."""
STYLE, SCRIPT = "<!--style-->", "<!--script-->"


@dataclass(frozen=True)
class AppPage:
    """What GET / answers."""

    html: bytes
    policy: str
    """Its Content-Security-Policy."""


@cache
def app_page() -> AppPage:
    """The same for everybody: what differs comes from /api/about."""
    parts = page_parts(tuple(map(_read, SCRIPTS)))
    css = f"{parts.css}\n{_read('app.css')}"
    js = parts.js
    assert "<!--" not in js and "</style" not in css, "it would not end where its element does"
    html = _read("app.html").replace(STYLE, f"<style>{css}</style>").replace(SCRIPT, f"<script>{js}</script>")
    policy = (
        f"default-src 'none'; script-src '{digest(js)}'; style-src '{digest(css)}'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return AppPage(html.encode(), policy)


def _read(name: str) -> str:
    return files(__name__.rpartition(".")[0]).joinpath(name).read_text(encoding="utf-8")
