"""A run on a Ray cluster: its workers keep a model each; only the process that started the run writes records."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from noiser.errors import DeviceMemoryError, NoiserError, RunError
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.interrupts import Interrupts
from noiser.experiments.plan import ExecutionConfig
from noiser.experiments.ray.cluster import AGAIN, Cluster, brief, check
from noiser.experiments.schedule import Prepared, Watch, chunks, failures, fresh, screened, to_do
from noiser.experiments.trials import GridCell, Sample
from noiser.experiments.worker import Records, all_failed
from noiser.storage import Writer

DEPTH = 2
"""Chunks that a worker has at a time: the one it works on, and one that waits there so that the worker need not."""
MAX_WORKER_LOSSES = 3
"""After so many lost workers a sample is given up; after so many that could not be started, so are further ones."""
LAST = 5.0
"""Seconds that what is under way has left when the run's time is up."""
LOST = "error(WorkerLost)"


@dataclass(frozen=True)
class _Chunk:
    """Samples that are worked on together."""

    samples: Sequence[Sample]
    part: GridCell
    lost: int = 0
    """Workers that were lost while they worked on it."""
    suspect: bool = False
    """Whether it was on a lost worker. It then gets a worker to itself, so that the next loss is certainly due to it."""


@dataclass(eq=False)
class WorkerHandle:
    """A worker, as the driver sees it."""

    actor: Any
    loading: Any
    """The promise of its model; None once it is there."""
    name: str = "a worker"
    jobs: list[tuple[Any, _Chunk]] = field(default_factory=list)
    """Promises of results, in the order in which it works on them."""

    @property
    def takes(self) -> bool:
        """Whether one more chunk may be sent there."""
        return self.loading is None and len(self.jobs) < DEPTH and not any(chunk.suspect for _, chunk in self.jobs)


class _TimeUpError(Exception):
    """The run's time is up, and something is left to do."""


def run_on_ray(
    prepared: Prepared,
    folder: RunFolder,
    found: RecordIndex,
    how: ExecutionConfig,
    watch: Watch,
    stopping: Interrupts,
    deadline: float | None,
) -> bool:
    """Do what is left to do of a run with Ray's workers; whether time was up before all was done.

    Only this process writes, each record once, so the workers need no common disk.
    A lost worker is replaced and its samples are run again; one that three workers were lost over ends as error(WorkerLost).
    Raises OptionError where Ray is missing or the cluster too small, RunError where it cannot be reached or no worker starts.
    """
    check(how)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(Writer(folder.records, "ray")))
        cluster = Cluster(prepared, how, watch, stopping, stack)
        for model in prepared.identity["models"]:
            with contextlib.closing(WorkerPool(cluster, model, deadline)) as crew:
                try:
                    parts = screened(prepared, folder, model, crew, watch)
                    todo = to_do(parts, found, how)
                    watch.expect(len(todo))
                    for records in crew.work([_Chunk(*each) for each in chunks(todo, parts, how.at_once)]):
                        with stopping.whole():
                            writer.write(fresh(records, found, how))
                        watch.advance(failures(records))
                except _TimeUpError:
                    watch.say(f"stopping after {how.max_seconds:g} s; the same command goes on from here", keep=True)
                    return True
    return False


class WorkerPool:
    """The workers of one model, and what they have to do."""

    def __init__(self, cluster: Cluster, model: str, deadline: float | None) -> None:
        self._cluster, self._model, self._deadline = cluster, model, deadline
        self._hands: list[WorkerHandle] = []
        self._limit: int | None = None
        self._not_started = 0
        self._todo: deque[_Chunk] = deque()
        self._suspects: deque[_Chunk] = deque()
        self._rows: dict[str, dict[str, Mapping[str, Any]]] = {}

    @property
    def station(self) -> "WorkerPool":
        """Itself: it screens as a `ModelWorker` does."""
        return self

    def screen(self, data: str) -> dict[str, Any]:
        """What one worker's `Station.screen` says. Raises RunError where three workers were lost over it."""
        error: Exception | None = None
        for _ in range(MAX_WORKER_LOSSES):
            hand = self._anybody()
            promise = hand.actor.screen.remote(data)
            while self._cluster.first([promise]) is None:
                self._cluster.look(at_work=True)
            found, error = self._cluster.get(promise)
            if error is None:
                return found
            _raise_for_good(error)
            self._dismiss(hand, error)
        raise RunError(f"{MAX_WORKER_LOSSES} workers were lost while they looked which prompts of {data} are kept: {brief(error)}")

    def work(self, todo: Sequence[_Chunk]) -> Iterator[Records]:
        """The records of every sample, in the order in which they come. Raises _TimeUpError at the deadline."""
        self._todo.extend(todo)
        while self._todo or self._suspects or self._jobs():
            if not self._late():
                self._hire(len(self._todo) + len(self._suspects) + self._jobs())
                self._hand_out()
            elif self._late(LAST) or not self._jobs():
                raise _TimeUpError
            yield from self._step()

    def close(self) -> None:
        """End all workers."""
        while self._hands:
            self._cluster.dismiss(self._hands.pop().actor)

    def _anybody(self) -> WorkerHandle:
        """A worker that is ready."""
        while (hand := next((each for each in self._hands if each.loading is None), None)) is None:
            if self._late():
                raise _TimeUpError
            self._hire(1)
            list(self._step())
        return hand

    def _jobs(self) -> int:
        return sum(len(hand.jobs) for hand in self._hands)

    def _late(self, grace: float = 0.0) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline + grace

    def _hire(self, useful: int) -> None:
        limit = self._cluster.size.workers if self._limit is None else self._limit
        while len(self._hands) < min(limit, useful):
            actor = self._cluster.hire(self._model)
            self._hands.append(WorkerHandle(actor, actor.load.remote()))

    def _hand_out(self) -> None:
        """First something for everybody, suspects before others, then the chunks that wait."""
        for depth in range(DEPTH):
            for hand in self._hands:
                source = self._suspects if depth == 0 and self._suspects else self._todo
                if source and hand.takes and len(hand.jobs) == depth:
                    chunk = source.popleft()
                    rows = {sample.id: self._row(chunk.part, sample) for sample in chunk.samples}
                    hand.jobs.append((hand.actor.work.remote(chunk.samples, rows), chunk))

    def _row(self, part: GridCell, sample: Sample) -> Mapping[str, Any]:
        if part.data not in self._rows:
            self._rows[part.data] = {row["id"]: row for row in part.rows or ()}
        return self._rows[part.data][sample.id]

    def _step(self) -> Iterator[Records]:
        """Wait a little, and deal with what comes."""
        owners: dict[Any, WorkerHandle] = {}
        for hand in self._hands:
            owners |= dict.fromkeys([hand.loading] if hand.loading is not None else [promise for promise, _ in hand.jobs], hand)
        promise = self._cluster.first([*owners])
        self._cluster.look(any(hand.loading is None for hand in self._hands))
        if promise is None:
            return
        hand = owners[promise]
        found, error = self._cluster.get(promise)
        if hand.loading is not None:
            self._started(hand, found, error)
        elif error is None:
            hand.jobs = [job for job in hand.jobs if job[0] != promise]
            yield from found
        else:
            yield from self._lost(hand, error)

    def _started(self, hand: WorkerHandle, name: Any, error: Exception | None) -> None:
        if error is None:
            hand.loading, hand.name, self._not_started = None, name, 0
            self._cluster.watch.say(f"{self._model} is loaded: {name}")
            return
        _raise_for_good(error)
        self._dismiss(hand, error)
        self._not_started += 1
        if self._not_started == MAX_WORKER_LOSSES:
            self._limit, self._not_started = sum(each.loading is None for each in self._hands), 0
            if not self._limit:
                raise RunError(
                    f"{MAX_WORKER_LOSSES} workers in a row could not be started, the last one because of {brief(error)}. {AGAIN}"
                )
            self._cluster.watch.say(f"going on with {self._limit} workers", keep=True)

    def _lost(self, hand: WorkerHandle, error: Exception) -> Iterator[Records]:
        """What a lost worker had finished counts. Of the rest, the first was running: it is to blame, as far as one can know.
        (Its result may have been lost on the way, and the next one be to blame: so each is tried again alone.)"""
        self._dismiss(hand, error)
        rest = []
        for promise, chunk in hand.jobs:
            found, missing = self._cluster.get(promise) if self._cluster.first([promise], 0.0) is not None else (None, error)
            if missing is None and found is not None:
                yield from found
            else:
                rest.append(chunk)
        for place, chunk in enumerate(rest):
            if place > 0:
                self._suspects.append(replace(chunk, suspect=True))
                continue
            for sample in chunk.samples:
                if chunk.lost + 1 < MAX_WORKER_LOSSES:
                    self._suspects.append(_Chunk([sample], chunk.part, chunk.lost + 1, suspect=True))
                else:
                    yield all_failed(
                        sample, LOST, f"{MAX_WORKER_LOSSES} workers were lost over it, the last one because of {brief(error)}", ""
                    )

    def _dismiss(self, hand: WorkerHandle, error: Exception) -> None:
        self._hands.remove(hand)
        self._cluster.dismiss(hand.actor)
        self._cluster.watch.say(f"{hand.name} was lost ({brief(error)}); what it had to do is done by others", keep=True)


def _raise_for_good(error: Exception) -> None:
    """Raise what every other worker would say as well."""
    if isinstance(error, NoiserError) and not isinstance(error, RunError | DeviceMemoryError):
        raise error
