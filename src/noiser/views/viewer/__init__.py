"""The viewer: one page of our own that shows an attribution or a comparison, with no framework and no network."""

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

SCRIPTS = (
    "dom.js", "colour.js", "state.js", "shown.js", "tokens.js", "rows.js", "matrix.js", "header.js", "panel.js",
    "evidence.js", "copying.js", "picture.js", "main.js",
)  # fmt: skip
"""In this order; together one scope."""
STYLES = ("viewer.css", "evidence.css")


@dataclass(frozen=True)
class Parts:
    """What a page needs to show views."""

    css: str
    js: str
    """One statement: everything inside a function of its own, so that nothing but `window.noiser` is left behind."""


@cache
def page_parts(more: tuple[str, ...] = ()) -> Parts:
    """The viewer's style and script; `more` scripts join its scope at the end."""
    js = "\n".join([*map(_read, SCRIPTS), *more]).replace("</script", r"<\/script")  # the same inside a string, and no end of the element
    return Parts("\n".join(map(_read, STYLES)), f'(() => {{\n"use strict";\n{js}\n}})();')


def page(views: Sequence[dict[str, Any]], title: str) -> str:
    """A whole HTML file that shows these views and needs no network; none: one that a script may fill.

    Its policy lets nothing run but the viewer's own script, named by its hash, and forbids every request.
    """
    parts = page_parts()
    filled = {
        "policy": policy(parts),
        "title": escape(title, quote=True),
        "style": parts.css,
        "data": in_script(list(views)),
        "script": parts.js,
    }
    return re.sub(r"\{(\w+)\}", lambda found: filled[found[1]], _read("page.html"))


def policy(parts: Parts) -> str:
    """The Content-Security-Policy of a page made of these parts alone."""
    return (
        f"default-src 'none'; script-src '{digest(parts.js)}'; style-src '{digest(parts.css)}'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """How a policy names a script or style: `sha256-...`."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def in_script(value: Any) -> str:
    """Strict JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    plain = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return plain.encode("utf-8", "backslashreplace").decode()


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
