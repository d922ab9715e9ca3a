"""Doing many things some at a time, in threads that nobody has to wait for."""

import threading
from collections.abc import Callable

LOOK = 0.2
"""Seconds between two looks at whether all is done, in which an interrupt is noticed on every system."""


def abreast(work: Callable[[int], None], count: int, at_once: int, stop: threading.Event) -> None:
    """Do `work(0)` to `work(count - 1)`, begun in this order, at most `at_once` at a time.

    The first exception ends it and is raised here; so does an interrupt. Then `stop` is set, nothing new is begun, and what is under
    way is left alone: it dies with the process, or ends some day.
    """
    places, taking, ended = iter(range(count)), threading.Lock(), threading.Event()
    errors: list[BaseException] = []
    left = [min(at_once, count)]

    def run() -> None:
        try:
            while not stop.is_set():
                with taking:
                    place = next(places, None)
                if place is None:
                    break
                work(place)
        except BaseException as error:  # noqa: BLE001  (it is raised by the thread that waits)
            errors.append(error)
            ended.set()
        with taking:
            left[0] -= 1
            if not left[0]:
                ended.set()

    try:
        for _ in range(left[0]):
            threading.Thread(target=run, daemon=True).start()
        while not ended.wait(LOOK):
            pass
    finally:
        stop.set()
    if errors:
        raise errors[0]
