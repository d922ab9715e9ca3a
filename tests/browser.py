"""Chromium, for the tests that look at pages: `make browser` installs Debian's. Where it is missing they are skipped and say so."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: `make browser` installs Debian's")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@contextmanager
def tab(browser: Any, file: Path, state: str = "", **context: Any) -> Iterator[Any]:
    """The file in a tab of its own. Fails where anything went wrong in it: an error, a dialog, a request that leaves the machine."""
    seen: list[str] = []
    opened = browser.new_context(**context)
    page = opened.new_page()
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.on("console", lambda message: seen.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("dialog", lambda dialog: (seen.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: seen.append(f"request: {request.url}") if leaves(request.url) else None)
    try:
        page.goto(file.as_uri() + state)
        yield page
    finally:
        opened.close()
    assert seen == []


def leaves(url: str) -> bool:
    """Whether a request goes anywhere but to a file or into the page itself."""
    return not url.startswith(("file:", "data:", "blob:", "about:"))
