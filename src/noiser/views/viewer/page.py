"""The HTML page of a result: the viewer's script, style and data in one file."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from noiser.results.attribution import Attribution, Comparison
from noiser.results.evaluation import Evaluation
from noiser.results.interactions import Interactions
from noiser.views.viewer.data import view

SCRIPTS = (
    "dom.js", "palette.js", "state.js", "labels.js", "tokens.js", "rows.js", "matrix.js", "header.js", "panel.js",
    "evidence.js", "copying.js", "picture.js", "main.js",
)  # fmt: skip
"""The scripts, in this order, share one scope."""
STYLES = ("viewer.css", "evidence.css")
SOURCES = ("sourcetree.js", "sourceprompt.js", "sources.js", "citations.js", "sources.css")
"""Not in pages without sources."""
ARCS = ("arcs.js", "arcs.css")
"""Only in pages that show interactions."""


@dataclass(frozen=True)
class PageParts:
    """The style and script that a page needs to show views."""

    css: str
    js: str
    """One statement. Everything is inside one function, so only `window.noiser` becomes global."""


@cache
def page_parts(more_scripts: tuple[str, ...] = (), *, arcs: bool = False, sources: bool = True) -> PageParts:
    """The viewer's style and script, if wanted with those of interactions and sources. `more_scripts` join its scope at the end."""
    chosen = [*(ARCS if arcs else ()), *(SOURCES if sources else ())]
    scripts = [*(name for name in chosen if name.endswith(".js")), *SCRIPTS]
    styles = [*STYLES, *(name for name in chosen if name.endswith(".css"))]
    js = "\n".join([*map(_read, scripts), *more_scripts]).replace("</script", r"<\/script")  # cannot end the element
    return PageParts("\n".join(map(_read, styles)), f'(() => {{\n"use strict";\n{js}\n}})();')


def page(views: Sequence[dict[str, Any]], title: str, *, sources: bool = False) -> str:
    """A whole HTML file that shows these views and needs no network. Without views it is a template that a script can fill.

    A template shows sources only with `sources`.
    Its policy allows only the viewer's own script, named by its hash, and forbids every request.
    """
    parts = page_parts(arcs=any("interactions" in view for view in views), sources=sources or any("sources" in view for view in views))
    fields = {
        "policy": policy(parts),
        "title": escape(title, quote=True),
        "style": parts.css,
        "data": in_script(list(views)),
        "script": parts.js,
    }
    return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], _read("page.html"))


def policy(parts: PageParts) -> str:
    """The Content-Security-Policy of a page that consists of these parts only."""
    return (
        f"default-src 'none'; script-src '{digest(parts.js)}'; style-src '{digest(parts.css)}'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """The name of a script or style in a policy: `sha256-...`."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def in_script(value: Any) -> str:
    """A value as strict JSON inside a script element. Nothing in it can end the element or start a comment."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode()


def _read(name: str) -> str:
    return files("noiser.views.viewer").joinpath(name).read_text(encoding="utf-8")


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
