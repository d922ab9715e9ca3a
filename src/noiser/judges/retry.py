"""Steps again: after which failures, when, and for how long."""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import count

from noiser.errors import JudgeError
from noiser.judges.backend import Completion, Heard

LOOK = 0.2
"""Seconds between two looks at whether all is done, in which an interrupt is noticed on every system."""


def run_threaded(work: Callable[[int], None], count: int, at_once: int, stop: threading.Event) -> None:
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


@dataclass(frozen=True)
class Failure:
    """A call that brought no completion."""

    kind: str
    """The HTTP status (`429`), or `timeout`, `connection`, `malformed` (what came is no completion)."""
    said: str
    """What happened, without the key."""
    again: bool
    """Whether it may be otherwise the next time."""
    wait: float | None = None
    """Seconds after which the server wants to be asked again, where it says so."""
    code: str = ""
    """The server's own names for it, and for the parameter that it is about, if any."""


@dataclass(frozen=True)
class Patience:
    """How long one completion may take. All in seconds."""

    timeout: float
    """For one call."""
    budget: float
    """For all calls and the waits between them."""
    base: float = 0.5
    """The first wait; it doubles each time."""
    cap: float = 30.0
    """No wait is longer, unless the server says so."""
    reach: float = float("inf")
    """For as long a server that cannot be reached at all is tried, if shorter than the budget."""

    def pause(self, failures: int, wait: float | None) -> float:
        """How long to wait after that many failures, from 1 on: what the server wants and a little more, so that not all come back
        at the same moment; else an exponential backoff, of which half is drawn."""
        part = secrets.SystemRandom().uniform(0.5, 1.0)  # not from the caller's random state, which is left as found
        return wait + part * self.base if wait is not None else part * min(self.cap, self.base * 2.0 ** min(failures - 1, 60))


def persist(attempt: Callable[[float], Completion | Failure], patience: Patience, stopped: Callable[[float], bool]) -> Completion | Failure:
    """The first completion, or the last failure. `attempt` is given the seconds that it may take.

    `stopped` waits so many seconds and says whether there is to be an end, at once when there is one.
    """
    begun = time.monotonic()
    for failures in count(1):
        outcome = attempt(min(patience.timeout, max(patience.budget - (time.monotonic() - begun), 0.001)))
        if isinstance(outcome, Completion) or not outcome.again:
            return outcome
        budget = min(patience.budget, patience.reach) if outcome.kind == "connection" else patience.budget
        left = budget - (time.monotonic() - begun)
        if outcome.wait is not None and outcome.wait > left:
            return replace(outcome, said=f"{outcome.said}; it wants {outcome.wait:.4g} s of waiting, and {_of(left, budget)}")
        pause = patience.pause(failures, outcome.wait)
        if pause >= left:
            return replace(outcome, said=f"{outcome.said}; asked {failures} times, and {_of(left, budget)}")
        if stopped(pause):
            return outcome
    raise AssertionError


def _of(left: float, budget: float) -> str:
    return f"{max(left, 0):.3g} s are left of the {budget:.4g} s that a question may take"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server wants to be left alone: `retry-after-ms`, or `Retry-After` in seconds or as a date; None: it says
    nothing that can be read."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after", "")
    seconds = _number(said)
    return seconds if seconds is not None else _until(said)


def _number(said: str) -> float | None:
    try:
        found = float(said)
    except ValueError:
        return None
    return None if found != found else max(found, 0.0)


def _until(said: str) -> float | None:
    try:
        then = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max((then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp() - time.time(), 0.0)


class CallTracker:
    """Calls under way. `counts` may be shared with other sessions, and `counting` is its lock."""

    def __init__(self, counts: Counter[str], counting: threading.Lock, heard: Heard) -> None:
        self.stop = threading.Event()
        """Set once nobody is to wait any more."""
        self._counts, self._counting, self._heard = counts, counting, heard
        self._telling = threading.Lock()
        self._under_way, self._left = 0, False

    def counted(self, send: Callable[[], Completion | Failure]) -> Completion | Failure:
        """Make one call, and count it and what went wrong with it."""
        with self._counting:
            self._counts["calls"] += 1
            self._under_way += 1
        said = send()
        with self._counting:
            if not self._left:
                self._under_way -= 1
                self._counts.update([said.kind] if isinstance(said, Failure) else [])
        return said

    def tell(self, place: int, outcome: Completion | JudgeError) -> None:
        """Pass on what became of a question, one at a time."""
        with self._telling:
            if not self._left:
                self._counts.update(["failed"] if isinstance(outcome, JudgeError) else [])
                self._heard(place, outcome)

    def leave(self) -> None:
        """Nothing is heard from here on. Calls that are still under way are counted as `abandoned`, whatever becomes of them."""
        self.stop.set()
        with self._telling, self._counting:
            self._left = True
            self._counts.update({"abandoned": self._under_way} if self._under_way else {})
