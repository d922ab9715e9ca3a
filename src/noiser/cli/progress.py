"""Progress on standard error: a bar on a terminal, elsewhere a line every 30 seconds."""

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
from noiser.views.labels import visible

if TYPE_CHECKING:
    from noiser.lm.model import LanguageModel

BAR_DELAY = 2.0
"""Seconds before the bar of a command appears: a quick command shows none."""
LINE_INTERVAL = 30.0
"""Seconds between two lines without a terminal."""


class Forecast:
    """Tokens that still have to go through the model, and the time that they take."""

    def __init__(self, prompts: int) -> None:
        self.prompts = prompts
        self.expected = 0
        """Token-forwards of the prompt that is worked on, if they were estimated."""
        self.done = 0
        self._finished = self._before = self._requested = 0
        self._first: tuple[float, int] | None = None
        self._rate = 0.0

    def update(self, done: int, remaining: int) -> None:
        """Token-forwards so far, and those that the engine still has to do for the rows at hand."""
        now = time.monotonic()
        self.done, self._requested = done, remaining
        if self._first is None:
            self._first = now, done
        elif now > self._first[0]:
            self._rate = (done - self._first[1]) / (now - self._first[0])

    def finish_prompt(self) -> None:
        """One prompt is done."""
        self._finished, self._before, self.expected = self._finished + 1, self.done, 0

    @property
    def to_go(self) -> tuple[int, bool]:
        """Token-forwards to go, and whether that is all. If not, they are the least: only the rows at hand are known."""
        left = self.prompts - self._finished
        if self._finished:
            return max(self._requested, round(left * self._before / self._finished) - (self.done - self._before), 0), True
        known = self.expected - self.done
        return max(self._requested, known), known > 0 and left == 1

    def __str__(self) -> str:
        to_go, whole = self.to_go
        if not self.done or not to_go:
            return f"{self.done:,} token-forwards"
        time_left = f", {duration(to_go / self._rate)} left" if self._rate else ""
        return f"{self.done:,} token-forwards, {'about' if whole else 'at least'} {to_go:,} to go{time_left}"


class PromptProgress:
    """Prompts done, and tokens that went through the model and that have to go through it."""

    def __init__(self, console: Console) -> None:
        self.forecast: Forecast | None = None
        self._console = console
        description = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), description, BarColumn(20), MofNCompleteColumn(), _ForecastColumn(self), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("starting", total=None)
        self._timer = threading.Timer(BAR_DELAY, self._bar.start)
        self._timer.daemon = True
        self._last_line = time.monotonic()

    @property
    def is_terminal(self) -> bool:
        """Whether somebody watches."""
        return self._console.is_terminal

    def say(self, message: str, *, keep: bool = False) -> None:
        """Show a message beside the bar. With `keep` it stays on standard error."""
        self._bar.update(self._task, description=message)
        if keep:
            self.stop()
            self._console.print(Text(message))

    @contextmanager
    def follow(self, lm: "LanguageModel", prompts: int) -> Iterator[None]:
        """Count prompts and the tokens of this model inside the block."""
        self.forecast = Forecast(prompts)
        self._bar.update(self._task, description="explaining", total=prompts, completed=0)
        with lm.progress_callback(self._on_tokens):
            yield

    def expect(self, forward_tokens: int) -> None:
        """The prompt that is worked on takes so many token-forwards."""
        if self.forecast is not None:
            self.forecast.expected = forward_tokens

    def advance(self) -> None:
        """One prompt is done."""
        self._bar.advance(self._task)
        if self.forecast is not None:
            self.forecast.finish_prompt()

    def start(self) -> None:
        """Show the bar after BAR_DELAY seconds, on a terminal only."""
        if self.is_terminal:
            self._timer.start()

    def stop(self) -> None:
        """Remove the bar."""
        self._timer.cancel()
        if self._bar.live.is_started:
            self._bar.stop()

    def _on_tokens(self, done: int, remaining: int) -> None:
        assert self.forecast is not None
        self.forecast.update(done, remaining)
        if not self.is_terminal and time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._last_line = time.monotonic()
            self._console.print(Text(str(self.forecast)))


class _ForecastColumn(TextColumn):
    def __init__(self, progress: PromptProgress) -> None:
        super().__init__("")
        self._progress = progress

    def render(self, task: Task) -> Text:  # noqa: ARG002  (rich passes it)
        return Text(str(self._progress.forecast or ""), style="dim")


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
        with progress.follow(lm, prompts):
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
