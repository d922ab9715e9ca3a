"""The app's page: one file with its script and style inside, and a policy that allows no other script or style."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from noiser.views.viewer.page import digest, page_parts

EXAMPLES: list[dict[str, Any]] = [
    {"title": "A fact", "prompt": "The Eiffel Tower is located in the city of"},
    {
        "title": "Why this, not that?",
        "prompt": "Berlin is in Germany. Madrid is in Spain. Paris is in",
        "target": " France",
        "foil": " Spain",
    },
    {"title": "Singular or plural", "prompt": "The keys to the cabinet", "target": " are", "foil": " is"},
    {
        "title": "Remembering a name",
        "prompt": "My dog is called Rex. It is a sunny day and we walk through the park. I throw a ball and call my dog:",
    },
    {"title": "Several words", "prompt": "To make tea, you first boil the water, then", "generate": 6},
    {"title": "A chat", "messages": [{"role": "user", "content": "What is the opposite of hot?"}], "generate": 7},
    {
        "title": "An answer under way",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "My name is Ada and I live in Berlin. What is my name?"},
            {"role": "assistant", "content": "Your name is"},
        ],
    },
]
"""The example questions: each is a request without methods, and a title."""

SCRIPTS = ("api.js", "form.js", "chat.js", "documents.js", "history.js", "app.js")
"""They follow the viewer's scripts in this order, in the same scope."""
STYLE_MARK, SCRIPT_MARK = "<!--style-->", "<!--script-->"


@dataclass(frozen=True)
class AppPage:
    """The response to GET /."""

    html: bytes
    policy: str
    """Its Content-Security-Policy."""


@cache
def app_page() -> AppPage:
    """The page, which is the same for every model. /api/about has what differs."""
    parts = page_parts(tuple(map(_read, SCRIPTS)))
    css = f"{parts.css}\n{_read('app.css')}"
    js = parts.js
    assert "<!--" not in js and "</style" not in css, "it would end its element too early"
    html = _read("app.html").replace(STYLE_MARK, f"<style>{css}</style>").replace(SCRIPT_MARK, f"<script>{js}</script>")
    policy = (
        f"default-src 'none'; script-src '{digest(js)}'; style-src '{digest(css)}'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return AppPage(html.encode(), policy)


def _read(name: str) -> str:
    return files("noiser.web").joinpath("static", name).read_text(encoding="utf-8")
