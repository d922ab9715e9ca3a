"""Take docs/viewer.png and docs/app.png, the screenshots in the README: python docs/screens.py (after make browser)."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import noiser

PROMPT = "The Eiffel Tower is located in the city of"
HERE = Path(__file__).parent


def main() -> None:
    """The viewer in a file, in the dark; the web app after an example, in the light."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        viewer(browser, Path(folder) / "page.html")
        app(browser)
        browser.close()


def viewer(browser: Any, file: Path) -> None:
    """A comparison of three methods, one token pointed at."""
    lm = noiser.load()
    noiser.with_curves(lm, noiser.compare(lm, PROMPT)).save_html(file)
    page = browser.new_page(viewport={"width": 1000, "height": 760}, color_scheme="dark")
    page.goto(file.as_uri())
    page.locator(".noiser-token").nth(2).hover()
    page.screenshot(path=HERE / "viewer.png")


def app(browser: Any) -> None:
    """The first example, asked and answered."""
    with serving() as url:
        page = browser.new_page(viewport={"width": 1000, "height": 1180})
        page.goto(url)
        page.get_by_role("button", name="A fact").click()
        page.locator(".noiser-row").first.wait_for(timeout=300_000)
        page.wait_for_timeout(500)
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=HERE / "app.png")


@contextmanager
def serving() -> Any:
    """`noiser serve` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = subprocess.Popen([sys.executable, "-m", "noiser.cli", "serve", "--port", str(port)])  # noqa: S603  (ourselves)
    url = f"http://127.0.0.1:{port}/"
    try:
        while b'"ready"' not in answer(f"{url}api/about"):
            time.sleep(0.5)
        yield url
    finally:
        served.terminate()
        served.wait()


def answer(url: str) -> bytes:
    """What is there; nothing while nobody listens."""
    try:
        with urllib.request.urlopen(url) as found:  # noqa: S310  (our own server)
            return found.read()
    except OSError:
        return b""


if __name__ == "__main__":
    main()
