"""Progress on standard error: a bar on a terminal; elsewhere nothing, or a line every 30 seconds for a run."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from noiser.cli.options import ModelOptions
from noiser.views.escape import visible

if TYPE_CHECKING:
    from noiser.lm.model import LanguageModel

BAR_DELAY = 2.0
"""Seconds before the bar of a command appears: a quick command shows none."""
LINE_INTERVAL = 30.0
"""Seconds between two lines of a run without a terminal."""


class PromptProgress:
    """Prompts done, and tokens that went through the model."""

    def __init__(self, console: Console) -> None:
        self.lm: LanguageModel | None = None
        self._console = console
        description = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), description, BarColumn(20), MofNCompleteColumn(), _TokenColumn(self), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("starting", total=None)
        self._timer = threading.Timer(BAR_DELAY, self._bar.start)
        self._timer.daemon = True

    def say(self, message: str, *, keep: bool = False) -> None:
        """Show a message beside the bar. With `keep` it stays on standard error."""
        self._bar.update(self._task, description=message)
        if keep:
            self.stop()
            self._console.print(Text(message))

    def follow(self, lm: "LanguageModel", prompts: int) -> None:
        """Count prompts and the tokens of this model from now on."""
        self.lm = lm
        self._bar.update(self._task, description="explaining", total=prompts, completed=0)

    def advance(self) -> None:
        """One prompt is done."""
        self._bar.advance(self._task)

    def start(self) -> None:
        """Show the bar after BAR_DELAY seconds, on a terminal only."""
        if self._console.is_terminal:
            self._timer.start()

    def stop(self) -> None:
        """Remove the bar."""
        self._timer.cancel()
        if self._bar.live.is_started:
            self._bar.stop()


class _TokenColumn(TextColumn):
    def __init__(self, progress: PromptProgress) -> None:
        super().__init__("")
        self._progress = progress

    def render(self, task: Task) -> Text:  # noqa: ARG002  (rich passes it)
        lm = self._progress.lm
        return Text(f"{lm.token_counter.forward_tokens:,} token-forwards" if lm else "", style="dim")


@contextmanager
def prompt_progress() -> Iterator[PromptProgress]:
    """A bar that is gone after the block, whatever happens."""
    progress = PromptProgress(Console(file=sys.stderr))
    progress.start()
    try:
        yield progress
    finally:
        progress.stop()


@contextmanager
def loaded_model(options: ModelOptions, prompts: int) -> Iterator[tuple["LanguageModel", PromptProgress]]:
    """The model, loaded, and the progress of `prompts` prompts through it."""
    with prompt_progress() as progress:
        progress.say(f"loading {options.model}")
        lm = options.load()
        progress.follow(lm, prompts)
        yield lm, progress


class RunProgress:
    """The progress of a run: samples done, their rate, the time left and the trials that failed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        description, rest = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[rest]}", markup=False)
        self._bar = Progress(description, BarColumn(20), MofNCompleteColumn(), rest, TimeElapsedColumn(), console=console, transient=True)
        self._task = self._bar.add_task("starting", total=None, rest="")
        self._expected = self._done = self._failures = 0
        self._started: float | None = None
        self._last_line = time.monotonic()

    def say(self, message: str, *, keep: bool = False) -> None:
        """Show a message. On a terminal it stands beside the bar; with `keep`, or without a terminal, it stays."""
        message = visible(message)
        if keep or not self._console.is_terminal:
            self._console.print(Text(message))
        self._bar.update(self._task, description=message)

    def expect(self, samples: int) -> None:
        """So many more samples are to be done."""
        self._expected += samples
        self._started = self._started or time.monotonic()
        self._bar.update(self._task, total=self._expected)

    def advance(self, failures: int) -> None:
        """A sample is done; `failures` of its trials failed."""
        self._done += 1
        self._failures += failures
        self._bar.update(self._task, completed=self._done, description="running", rest=self._rest())
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._last_line >= LINE_INTERVAL or self._done in (1, self._expected)):
            self._last_line = now
            self._console.print(Text(f"{self._done}/{self._expected} samples, {self._rest()}"))

    def start(self) -> None:
        """Show the bar, on a terminal only."""
        if self._console.is_terminal:
            self._bar.start()

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar.live.is_started:
            self._bar.stop()

    def _rest(self) -> str:
        seconds = time.monotonic() - (self._started or time.monotonic())
        rate = self._done / seconds if seconds > 0 else 0.0
        left = duration((self._expected - self._done) / rate) if rate else "?"
        return f"{60 * rate:.1f} a minute, {left} left, {self._failures} trials failed"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def run_progress() -> Iterator[RunProgress]:
    """The progress of a run; its bar is gone after the block, whatever happens."""
    progress = RunProgress(Console(file=sys.stderr, highlight=False, soft_wrap=True))
    progress.start()
    try:
        yield progress
    finally:
        progress.stop()
