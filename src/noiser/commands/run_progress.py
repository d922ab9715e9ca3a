"""How a run goes on: a live bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from noiser.views.escape import visible

EVERY = 30.0
"""Seconds between two plain lines."""


class RunWatch:
    """Shows samples done, their rate, the time left and the trials that failed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        what, rest = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[rest]}", markup=False)
        self._bar = Progress(what, BarColumn(20), MofNCompleteColumn(), rest, TimeElapsedColumn(), console=console, transient=True)
        self._task = self._bar.add_task("starting", total=None, rest="")
        self._expected = self._done = self._failures = 0
        self._begun: float | None = None
        self._said = time.monotonic()

    def say(self, what: str, *, keep: bool = False) -> None:
        """Name what is going on; `keep` leaves it to be read."""
        what = visible(what)
        if keep or not self._console.is_terminal:
            self._console.print(Text(what))
        self._bar.update(self._task, description=what)

    def expect(self, samples: int) -> None:
        """So many more samples are to be done."""
        self._expected += samples
        self._begun = self._begun or time.monotonic()
        self._bar.update(self._task, total=self._expected)

    def advance(self, failures: int) -> None:
        """A sample is done, so many of its trials failed."""
        self._done += 1
        self._failures += failures
        self._bar.update(self._task, completed=self._done, description="running", rest=self._rest())
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._said >= EVERY or self._done in (1, self._expected)):
            self._said = now
            self._console.print(Text(f"{self._done}/{self._expected} samples, {self._rest()}"))

    def start(self) -> None:
        """Show the bar, where there is a terminal to show it on."""
        if self._console.is_terminal:
            self._bar.start()

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar.live.is_started:
            self._bar.stop()

    def _rest(self) -> str:
        passed = time.monotonic() - (self._begun or time.monotonic())
        rate = self._done / passed if passed > 0 else 0.0
        left = duration((self._expected - self._done) / rate) if rate else "?"
        return f"{60 * rate:.1f} a minute, {left} left, {self._failures} trials failed"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def run_progress() -> Iterator[RunWatch]:
    """A watch that is gone when the block is left, whatever happens."""
    watch = RunWatch(Console(file=sys.stderr, highlight=False, soft_wrap=True))
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
