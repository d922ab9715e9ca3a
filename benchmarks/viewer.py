"""How fast the viewer is in Chromium, and what it weighs: `python -m benchmarks.viewer` (after `make browser`).

Synthetic scores: what counts is how many tokens and methods there are. Every time is taken in a fresh tab; median and extremes.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from noiser.results.attribution import Attribution, Comparison, Cost, Curve, Target
from noiser.text.prompt import Prompt
from noiser.views.viewer.data import view
from noiser.views.viewer.page import page, page_parts

WORDS = ("why", "did", "the", "model", "say", "that", "people", "look", "rather", "than", "read", "which", "token", "moved", "it", "most")
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
COLOURED = """() => new Promise((done) => {
  const seen = () => document.querySelectorAll('.noiser-token').length >= ALL ? done(performance.now()) : requestAnimationFrame(seen);
  seen();
})"""
HOVER = """async (moves) => {
  const rows = [...document.querySelectorAll('.noiser-row')].slice(0, 3), found = [];
  for (let move = 0; move < moves; move++) {
    const tokens = rows[move % rows.length].querySelectorAll('.noiser-token');
    const token = tokens[(move * 37) % Math.min(400, tokens.length)];
    const begin = performance.now();
    for (const kind of ['pointerover', 'pointermove', 'mouseover', 'mousemove'])
      token.dispatchEvent(new PointerEvent(kind, {bubbles: true, clientX: 300, clientY: 300}));
    token.getBoundingClientRect();
    await new Promise((next) => requestAnimationFrame(() => setTimeout(next, 0)));
    found.push(performance.now() - begin);
    await new Promise((next) => setTimeout(next, 10));
  }
  return found;
}"""
SCROLL = """async () => {
  const found = [];
  let last = performance.now();
  const end = document.documentElement.scrollHeight - innerHeight;
  for (let y = 0; y <= end; y += Math.max(60, end / 120)) {
    scrollTo(0, y);
    await new Promise((next) => requestAnimationFrame(next));
    const now = performance.now();
    found.push(now - last);
    last = now;
  }
  return found;
}"""


def main() -> None:
    """Weights, then times for a small and a large comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    parts = page_parts()
    empty = page([], "")
    print(f"page without data: {len(empty.encode()):,} bytes (script {len(parts.js.encode()):,}, style {len(parts.css.encode()):,})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        print(f"Chromium {browser.version}")
        for tokens, methods in ((10, 3), (2000, 10)):
            file = Path(folder) / "page.html"
            file.write_text(page([view(synthetic(tokens, methods))], "benchmark"), encoding="utf-8")
            print(f"{tokens:,} tokens, {methods} methods: {file.stat().st_size:,} bytes")
            measure(browser, file, tokens * methods, given.runs)
        browser.close()


def measure(browser: Any, file: Path, spans: int, runs: int) -> None:
    """First paint, all tokens there, hover, scroll."""
    found: dict[str, list[float]] = {"first paint": [], "all tokens there": [], "hover, 100 moves": [], "scroll, a frame": []}
    for _ in range(runs):
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        tab = context.new_page()
        tab.goto(file.as_uri())
        found["all tokens there"].append(tab.evaluate(COLOURED.replace("ALL", str(spans))))
        while (painted := tab.evaluate(PAINTED)) is None:
            tab.wait_for_timeout(20)
        found["first paint"].append(painted)
        found["hover, 100 moves"] += tab.evaluate(HOVER, 100)
        found["scroll, a frame"] += tab.evaluate(SCROLL)
        context.close()
    for name, times in found.items():
        print(f"  {name}: {spread(times)}")


def spread(times: Sequence[float]) -> str:
    """Median, 95th percentile and largest, in milliseconds."""
    return f"median {statistics.median(times):.1f} ms, 95 % below {np.quantile(times, 0.95):.1f}, largest {max(times):.1f} ({len(times)})"


def synthetic(tokens: int, methods: int) -> Comparison:
    """Words at random, scores with a heavy tail, curves at 24 counts."""
    draws = np.random.default_rng(0)
    words = [f"{' ' if place else ''}{WORDS[draws.integers(len(WORDS))]}" for place in range(tokens)]
    ends = np.cumsum([0, *map(len, words)]).tolist()
    prompt = Prompt("".join(words), tuple(range(tokens)), tuple(words), (False,) * tokens, tuple(pairwise(ends)))
    target = Target((0,), (" that",), 0.5, 0, "prob", 0.5, context=tokens)
    each = []
    for place in range(methods):
        scores = draws.standard_normal((1, tokens)) ** 3
        counts = tuple(np.unique(np.geomspace(1, tokens, 24).round().astype(int)).tolist())
        falls = tuple(np.linspace(0.5, 0, len(counts) + 1).tolist())
        curve = Curve(tuple(np.argsort(-scores[0]).tolist()), (0, *counts), falls, falls[::-1])
        about: dict[str, Any] = {
            "options": {},
            "model": "synthetic",
            "revision": "none",
            "seed": 0,
            "cost": Cost(1.0 + place, tokens, 0, 0),
        }
        each.append(Attribution(scores, prompt, (target,), f"method_{place}", **about, curves=(curve,)))
    return Comparison(tuple(each))


if __name__ == "__main__":
    main()
