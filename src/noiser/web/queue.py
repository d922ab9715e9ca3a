"""The job queue: one model, one job at a time, a bounded number of waiting jobs, and clients that may leave at any time."""

import itertools
import logging
import math
import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from noiser.errors import NoiserError, Stopped, cancellable
from noiser.web.errors import HttpError, to_http_error

logger = logging.getLogger("noiser.web")
Status = Literal["loading", "ready", "failed"]
State = Literal["waiting", "running", "done"]


class JobTimeout(Stopped):
    """A job ran longer than the time limit."""


CANCELLED = HttpError(499, "Stopped", "the client left, or the server is closing")


@dataclass(eq=False)
class Job:
    """One client's request in the queue. The queue's thread writes to it; the client's side reads it."""

    key: str
    """Jobs with equal keys have equal answers."""
    function: Callable[["Job"], bytes]
    """Computes the answer in the queue's thread. It must call `check` often."""
    on_change: Callable[["Job"], None]
    """Called with the job, from any thread, when its state, progress or place in the queue changes."""
    gives_way: bool = False
    """Whether the job stops as soon as another job with another key arrives."""
    state: State = "waiting"
    started_at: float = 0.0
    """Start of the computation, by `time.perf_counter`."""
    progress: dict[str, Any] = field(default_factory=dict)
    answer: bytes | None = None
    cached: bool = False
    error: HttpError | None = None
    cancelled: bool = False
    deadline: float = math.inf
    """When the job is stopped, by `time.perf_counter`."""

    def check(self) -> None:
        """Raises Stopped if nobody waits for the answer any more, and JobTimeout after the deadline."""
        if self.cancelled:
            raise Stopped
        if time.perf_counter() > self.deadline:
            raise JobTimeout


class JobQueue:
    """Loads a model in its own thread, then answers jobs in the order in which they arrive."""

    def __init__(self, max_waiting: int, cache: "AnswerCache", time_limit: float = math.inf) -> None:
        self.status: Status = "loading"
        self.message = ""
        """Why the model could not be loaded."""
        self.cache = cache
        self._max_waiting = max_waiting
        self._time_limit = time_limit
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._mean_seconds = 2.0
        self._thread: threading.Thread | None = None

    def start(self, load: Callable[[], None], after_load: Callable[[], None] | None = None) -> None:
        """Start the thread. It calls `load`, then `after_load`, which may submit jobs. Clients' jobs are refused until `load` returns."""
        self._thread = threading.Thread(target=self._run, args=(load, after_load), name="noiser-queue", daemon=True)
        self._thread.start()

    def submit(self, key: str, function: Callable[[Job], bytes], on_change: Callable[[Job], None], *, gives_way: bool = False) -> Job:
        """Put a new job at the end of the queue. A running job that gives way is stopped, unless it has the same key.

        Raises HttpError: 429 if the queue is full, 503 if there is no model.
        """
        with self._changed:
            if self.status != "ready" or self._closed:
                raise self.unavailable()
            if len(self._waiting) >= self._max_waiting:
                raise HttpError(
                    429,
                    "QueueFull",
                    f"{len(self._waiting)} requests are waiting already: ask again later",
                    retry_after=max(1, round(self._mean_seconds)),
                )
            job = Job(key, function, on_change, gives_way)
            self._waiting.append(job)
            if self._running is not None and self._running.gives_way and self._running.key != key:
                self._running.cancelled = True
            self._changed.notify()
        return job

    def unavailable(self) -> HttpError:
        """The error (503) for a request that comes while there is no model."""
        if self._closed:
            return HttpError(503, "Closing", "the server is closing")
        if self.status == "failed":
            return HttpError(503, "ModelError", f"there is no model: {self.message}")
        return HttpError(503, "Loading", "the model is being loaded: ask again in some seconds", retry_after=2)

    def cancel(self, job: Job) -> None:
        """Remove a waiting job, or stop a running one at its next check. Does nothing if the job is done."""
        with self._changed:
            job.cancelled = True
            if job.state != "waiting":
                return
            with suppress(ValueError):
                self._waiting.remove(job)
        self._finish(job, error=CANCELLED)

    def ahead(self, job: Job) -> int:
        """How many jobs come before this one; 0 for a job that runs or is done."""
        with self._changed:
            if job.state != "waiting" or job not in self._waiting:
                return 0
            return self._waiting.index(job) + (self._running is not None and not self._running.cancelled)

    def close(self) -> None:
        """Accept no more jobs, and cancel those that wait or run."""
        with self._changed:
            self._closed = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._changed.notify()
        for job in jobs:
            self.cancel(job)

    def join(self, timeout: float) -> bool:
        """Whether the thread ends within `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, load: Callable[[], None], after_load: Callable[[], None] | None) -> None:
        try:
            load()
        except Exception as error:  # noqa: BLE001  (the thread must not die silently)
            self.status, self.message = "failed", to_http_error(error).message
            logger.info("there is no model: %s", self.message)
            return
        self.status = "ready"
        if after_load is not None:
            try:
                after_load()
            except (HttpError, NoiserError) as error:  # a failed warm-up must not stop the server
                logger.info("not warmed up: %s", error)
        for job in iter(self._next, None):
            self._execute(job)

    def _next(self) -> Job | None:
        """Wait for the next job; None when the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            self._running = self._waiting.popleft()
            self._running.state, self._running.started_at = "running", time.perf_counter()
            self._running.deadline = self._running.started_at + self._time_limit
            return self._running

    def _execute(self, job: Job) -> None:
        try:
            job.check()
            cached = self.cache.get(job.key)
            job.cached = cached is not None
            with cancellable(job.check):
                answer = job.function(job) if cached is None else cached
            self.cache.put(job.key, answer)
        except JobTimeout:
            message = f"stopped after {self._time_limit:g} s, the time limit of this server (--time-limit): ask for less"
            self._finish(job, error=HttpError(504, "TimeLimitError", message))
        except Stopped:
            self._finish(job, error=CANCELLED)
        except Exception as error:  # noqa: BLE001  (one client's failure must not reach another client)
            self._finish(job, error=to_http_error(error))
        else:
            self._mean_seconds += 0.2 * (time.perf_counter() - job.started_at - self._mean_seconds)
            self._finish(job, answer=answer)

    def _finish(self, job: Job, *, answer: bytes | None = None, error: HttpError | None = None) -> None:
        """Store the result and tell the job's client, and the clients of all waiting jobs."""
        with self._changed:
            job.answer, job.error = answer, error
            job.state = "done"  # last: a reader that sees "done" finds the answer
            if self._running is job:
                self._running = None
            waiting = list(self._waiting)
        for changed in itertools.chain([job], waiting):
            with suppress(RuntimeError):  # that client's event loop has ended
                changed.on_change(changed)


class AnswerCache:
    """Answers by key, at most `max_bytes` in all, the least recently used dropped first. Threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.size = 0
        """Bytes of all keys and answers."""

    def get(self, key: str) -> bytes | None:
        """The answer, which then counts as just used; None if it is not here."""
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
            return self._answers.get(key)

    def put(self, key: str, answer: bytes) -> None:
        """Keep an answer, and drop old ones until all fit. An answer larger than the whole cache is not kept."""
        with self._lock:
            self._drop(key)
            if _bytes_of(key, answer) > self._max_bytes:
                return
            self._answers[key] = answer
            self.size += _bytes_of(key, answer)
            while self.size > self._max_bytes:
                self._drop(next(iter(self._answers)))

    def _drop(self, key: str) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.size -= _bytes_of(key, answer)


def _bytes_of(key: str, answer: bytes) -> int:
    return len(key) + len(answer)


MAX_KEYS = 500
"""The most methods, each with its options, that are remembered."""
MAX_OBSERVATIONS = 12
"""The most observations that are kept for each method with its options."""
MAX_RATIO = 3.0
"""A prompt may be so many times longer or shorter than an observed one; else there is no estimate."""


@dataclass(frozen=True)
class MethodCost:
    """What one method takes for a prompt."""

    length: int
    """Tokens of the prompt."""
    seconds: float
    forward_tokens: float


class CostEstimates:
    """What methods took, by method and options. Threads may share it."""

    def __init__(self) -> None:
        self._observed: defaultdict[str, deque[MethodCost]] = defaultdict(lambda: deque(maxlen=MAX_OBSERVATIONS))
        """Costs of one target."""
        self._lock = threading.Lock()

    def observe(self, key: str, length: int, targets: int, seconds: float, forward_tokens: int) -> None:
        """Remember what a method took for `targets` targets of a prompt of `length` tokens."""
        with self._lock:
            if key not in self._observed and len(self._observed) >= MAX_KEYS:
                self._observed.pop(next(iter(self._observed)))
            self._observed[key].append(MethodCost(length, seconds / targets, forward_tokens / targets))

    def estimate(self, key: str, length: int, targets: int) -> MethodCost | None:
        """The cost of all targets; None if no prompt of a comparable length was observed.

        The estimate scales the observation of the nearest length by a power of the length. The power is fitted to the
        observations and clipped to [1, 2]. It is 2, the growth of most methods, if only one length was observed.
        """
        with self._lock:
            observations = list(self._observed.get(key, ()))
        nearest = min(reversed(observations), key=lambda cost: abs(math.log(length / cost.length)), default=None)
        if nearest is None or not 1 / MAX_RATIO <= length / nearest.length <= MAX_RATIO:
            return None
        scale = targets * (length / nearest.length) ** _fitted_power(observations)
        return MethodCost(length, nearest.seconds * scale, nearest.forward_tokens * scale)


def _fitted_power(observations: list[MethodCost]) -> float:
    usable = [cost for cost in observations if cost.forward_tokens > 0]
    if len({cost.length for cost in usable}) < 2:
        return 2.0
    lengths, tokens = (np.log([float(getattr(cost, name)) for cost in usable]) for name in ("length", "forward_tokens"))
    return float(np.clip(np.polyfit(lengths, tokens, 1)[0], 1.0, 2.0))
