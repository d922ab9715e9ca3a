"""The desk: one model, one job at a time, a line of bounded length in front of it, and clients who may leave it."""

import itertools
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from noiser.errors import NoiserError, Stopped
from noiser.web.errors import Refusal, refusal_of

logger = logging.getLogger("noiser.web")
Status = Literal["loading", "ready", "failed"]
State = Literal["waiting", "running", "done"]
GONE = Refusal(499, "Stopped", "nobody waited for the answer, or the server is closing")


class Cache:
    """Holds at most `most` bytes. Threads may share it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.size = 0
        """Bytes held, keys included."""

    def get(self, key: str) -> bytes | None:
        """The answer, which then counts as just used; None where it is not there."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: str, answer: bytes) -> None:
        """Keep an answer, and let go of old ones until all fit. One that is too large by itself is not kept."""
        with self._lock:
            self._drop(key)
            if _weight(key, answer) > self._most:
                return
            self._held[key] = answer
            self.size += _weight(key, answer)
            while self.size > self._most:
                self._drop(next(iter(self._held)))

    def _drop(self, key: str) -> None:
        answer = self._held.pop(key, None)
        if answer is not None:
            self.size -= _weight(key, answer)


def _weight(key: str, answer: bytes) -> int:
    return len(key) + len(answer)


@dataclass(eq=False)
class Job:
    """One client's request on its way. The desk writes to it; the client's side reads, and is told when to."""

    key: str
    work: Callable[["Job"], bytes]
    """Runs in the desk's thread. It calls `check` often and raises what is wrong."""
    heard: Callable[["Job"], None]
    """Called with the job, from any thread, whenever there is something new to read here."""
    yields: bool = False
    """Whether it makes way for any other."""
    state: State = "waiting"
    begun: float = 0.0
    """When it began to run, by `time.perf_counter`."""
    progress: dict[str, Any] = field(default_factory=dict)
    answer: bytes | None = None
    cached: bool = False
    error: Refusal | None = None
    left: bool = False

    def check(self) -> None:
        """Raises Stopped where nobody waits for the answer any more."""
        if self.left:
            raise Stopped


class JobQueue:
    """Opens in a thread of its own (`start`), and answers jobs in the order in which they came."""

    def __init__(self, queue: int, cache: Cache) -> None:
        self.status: Status = "loading"
        self.message = ""
        self.cache = cache
        self._most = queue
        self._line: deque[Job] = deque()
        self._running: Job | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._mean_seconds = 2.0
        self._thread: threading.Thread | None = None

    def start(self, opening: Callable[[], None], first: Callable[[], None] | None = None) -> None:
        """Begin. `opening` reads the model, in the desk's thread; until it is through no job is taken. `first` may submit some."""
        self._thread = threading.Thread(target=self._serve, args=(opening, first), name="noiser-desk", daemon=True)
        self._thread.start()

    def submit(self, key: str, work: Callable[[Job], bytes], heard: Callable[[Job], None], *, yields: bool = False) -> Job:
        """A new job at the end of the line. One that `yields` is stopped as soon as another one comes that asks for something else.

        Raises Refusal: 429 where the line is full, 503 where there is no model.
        """
        with self._changed:
            if self.status != "ready" or self._closed:
                raise self.not_ready()
            if len(self._line) >= self._most:
                wait = max(1, round(self._mean_seconds))
                raise Refusal(429, "QueueFull", f"{len(self._line)} requests are waiting already: ask again later", retry_after=wait)
            job = Job(key, work, heard, yields)
            self._line.append(job)
            if self._running is not None and self._running.yields and self._running.key != key:
                self._running.left = True
            self._changed.notify()
        return job

    def not_ready(self) -> Refusal:
        """Why there is no model to ask."""
        if self._closed:
            return Refusal(503, "Closing", "the server is closing")
        if self.status == "failed":
            return Refusal(503, "ModelError", f"there is no model: {self.message}")
        return Refusal(503, "Loading", "the model is being read: ask again in some seconds", retry_after=2)

    def leave(self, job: Job) -> None:
        """Its client is gone: out of the line, or stopped at its next check. Nothing where it is done."""
        with self._changed:
            job.left = True
            if job.state != "waiting":
                return
            with suppress(ValueError):
                self._line.remove(job)
        self._finish(job, error=GONE)

    def ahead(self, job: Job) -> int:
        """How many jobs will be answered before this one; 0 for one that runs or is done."""
        with self._changed:
            if job.state != "waiting" or job not in self._line:
                return 0
            return self._line.index(job) + (self._running is not None and not self._running.left)

    def close(self) -> None:
        """No more jobs: those that wait or run end with GONE."""
        with self._changed:
            self._closed = True
            jobs = [*self._line, *([self._running] if self._running else [])]
            self._changed.notify()
        for job in jobs:
            self.leave(job)

    def join(self, timeout: float) -> bool:
        """Whether the desk's thread ends within so many seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def _serve(self, opening: Callable[[], None], first: Callable[[], None] | None) -> None:
        try:
            opening()
        except Exception as error:  # noqa: BLE001  (the thread must not die in silence)
            self.status, self.message = "failed", refusal_of(error).message
            logger.info("there is no model: %s", self.message)
            return
        self.status = "ready"
        if first is not None:
            try:
                first()
            except (Refusal, NoiserError) as error:  # what it submits is not worth the server
                logger.info("not warmed up: %s", error)
        for job in iter(self._next, None):
            self._do(job)

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._closed)
            if self._closed:
                return None
            self._running = self._line.popleft()
            self._running.state, self._running.begun = "running", time.perf_counter()
            return self._running

    def _do(self, job: Job) -> None:
        try:
            job.check()
            found = self.cache.get(job.key)
            job.cached = found is not None
            answer = job.work(job) if found is None else found
            self.cache.put(job.key, answer)
        except Stopped:
            self._finish(job, error=GONE)
        except Exception as error:  # noqa: BLE001  (one client's failure is no other's)
            self._finish(job, error=refusal_of(error))
        else:
            self._mean_seconds += 0.2 * (time.perf_counter() - job.begun - self._mean_seconds)
            self._finish(job, answer=answer)

    def _finish(self, job: Job, *, answer: bytes | None = None, error: Refusal | None = None) -> None:
        with self._changed:
            job.answer, job.error = answer, error
            job.state = "done"  # at last: who sees this finds the rest there
            if self._running is job:
                self._running = None
            waiting = list(self._line)
        for each in itertools.chain([job], waiting):
            with suppress(RuntimeError):  # its client's event loop has ended
                each.heard(each)
