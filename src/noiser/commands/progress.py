"""A bar on standard error, for what takes longer than two seconds; nothing where that is no terminal."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from noiser.lm.model import LanguageModel

PATIENCE = 2.0
"""Seconds before the bar appears."""


class Watch:
    """What the bar shows."""

    def __init__(self, console: Console) -> None:
        self.lm: LanguageModel | None = None
        self._console = console
        what = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), what, BarColumn(20), MofNCompleteColumn(), _Tokens(self), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("starting", total=None)
        self._timer = threading.Timer(PATIENCE, self._bar.start)
        self._timer.daemon = True

    def say(self, what: str, *, keep: bool = False) -> None:
        """Name what is going on; `keep` leaves it on standard error."""
        self._bar.update(self._task, description=what)
        if keep:
            self.stop()
            self._console.print(Text(what))

    def follow(self, lm: LanguageModel, prompts: int) -> None:
        """From now on show how many prompts are done and how many tokens went through the model."""
        self.lm = lm
        self._bar.update(self._task, description="explaining", total=prompts, completed=0)

    def advance(self) -> None:
        """One prompt is done."""
        self._bar.advance(self._task)

    def start(self) -> None:
        """Show the bar once PATIENCE has passed, where there is a terminal to show it on."""
        if self._console.is_terminal:
            self._timer.start()

    def stop(self) -> None:
        """Take the bar away."""
        self._timer.cancel()
        if self._bar.live.is_started:
            self._bar.stop()


class _Tokens(TextColumn):
    def __init__(self, watch: Watch) -> None:
        super().__init__("")
        self._watch = watch

    def render(self, task: Task) -> Text:  # noqa: ARG002  (rich calls it so)
        lm = self._watch.lm
        return Text(f"{lm.token_counter.forward_tokens:,} token-forwards" if lm else "", style="dim")


@contextmanager
def progress() -> Iterator[Watch]:
    """A bar that is gone when the block is left, whatever happens."""
    watch = Watch(Console(file=sys.stderr))
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
