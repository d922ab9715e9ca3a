"""Ctrl-C and SIGTERM: records are never torn, the current sample is given up, and a second signal ends the process at once."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

GRACE = 1.5
"""Seconds after a second signal in which the process may still end by itself."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Handles signals while entered.

    The first signal raises in the main thread: KeyboardInterrupt, or SystemExit(143) for SIGTERM. It never raises inside `postponed`.
    A second signal ends the process, even if the main thread is deep in a computation.
    """

    def __init__(self) -> None:
        self._pending: int | None = None
        self._postponing = False
        self._handlers: dict[int, object] = {}
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is not threading.main_thread():
            return self  # a program that runs us in a thread has its own way to stop
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._pipe = reader, writer
        self._wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        threading.Thread(target=_exit_at_second_signal, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is None:
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]  (what signal.signal itself returned)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe[1])
        self._pipe = None

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """Run the block as a whole. A signal takes effect at its end."""
        self._postponing = True
        try:
            yield
        finally:
            self._postponing = False
        if self._pending is not None:
            self._stop(self._pending)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  (the system's signature)
        if self._postponing:
            self._pending = number
        else:
            self._stop(number)

    def _stop(self, number: int) -> None:
        self._pending = None
        sys.stderr.write("\nStopping: finished work is kept, and the same command continues from there. Press again to leave at once.\n")
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def _exit_at_second_signal(reader: int) -> None:
    """Count signals. They arrive here whatever the main thread does."""
    signals = 0
    while number := os.read(reader, 1):
        signals += number[0] in SIGNALS
        if signals > 1:
            time.sleep(GRACE)
            os._exit(128 + number[0])
    os.close(reader)
