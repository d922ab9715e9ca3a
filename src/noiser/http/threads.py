"""Work that waits for servers, in threads."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

POLL_SECONDS = 0.2
"""Seconds between two looks at whether all work is done. An interrupt is noticed between them on every system."""
Result = TypeVar("Result")


def results_of(
    work: Callable[[int], Result], count: int, max_threads: int, stop: threading.Event
) -> Generator[tuple[int, Result], None, None]:
    """Yield the index and the result of `work(0)` to `work(count - 1)` as soon as there is one, at most `max_threads` at a time.

    The work is started in this order. The first exception ends it and is raised here, and so does an interrupt, or an exception of the
    caller between two results. Then `stop` is set and no new work starts. Work that still runs is not waited for: its threads are
    daemons.
    """
    indices, lock = iter(range(count)), threading.Lock()
    finished: queue.SimpleQueue[tuple[int, Result] | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            while not stop.is_set():
                with lock:
                    index = next(indices, None)
                if index is None:
                    return
                finished.put((index, work(index)))
        except BaseException as error:  # noqa: BLE001  (the waiting thread raises it)
            finished.put(error)

    try:
        for _ in range(min(max_threads, count)):
            threading.Thread(target=run, daemon=True).start()
        for _ in range(count):
            yield _next(finished)
    finally:
        stop.set()


def _next(finished: "queue.SimpleQueue[tuple[int, Result] | BaseException]") -> tuple[int, Result]:
    while True:
        try:
            result = finished.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if isinstance(result, BaseException):
            raise result
        return result


def run_threaded(work: Callable[[int], None], count: int, max_threads: int, stop: threading.Event) -> None:
    """`results_of` for work without results: it returns when all is done."""
    for _ in results_of(work, count, max_threads, stop):
        pass
