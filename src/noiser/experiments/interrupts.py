"""Ctrl-C and SIGTERM: what is written is whole, what is under way is given up, and a second one leaves at once."""

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
    """While entered, the first signal raises in the main thread (KeyboardInterrupt, or SystemExit(143) for SIGTERM), but never
    inside `whole`; a second one ends the process, even where the main thread is deep in a computation."""

    def __init__(self) -> None:
        self._pending: int | None = None
        self._whole = False
        self._before: dict[int, object] = {}
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is not threading.main_thread():
            return self  # a program that runs us in a thread has its own way of stopping
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._pipe = reader, writer
        self._wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        threading.Thread(target=_watch, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]  (what signal.signal itself returned)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe[1])
        self._pipe = None

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """What happens inside is not torn apart: a signal takes effect at its end."""
        self._whole = True
        try:
            yield
        finally:
            self._whole = False
        if self._pending is not None:
            self._leave(self._pending)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  (as the system calls it)
        if self._whole:
            self._pending = number
        else:
            self._leave(number)

    def _leave(self, number: int) -> None:
        self._pending = None
        sys.stderr.write("\nStopping: what is done is kept, and the same command goes on from there. Once more to leave at once.\n")
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def _watch(reader: int) -> None:
    """Count the signals, which arrive here whatever the main thread does; see the second one through."""
    heard = 0
    while number := os.read(reader, 1):
        heard += number[0] in SIGNALS
        if heard > 1:
            time.sleep(GRACE)
            os._exit(128 + number[0])
    os.close(reader)
