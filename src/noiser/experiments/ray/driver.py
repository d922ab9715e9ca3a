"""The executor that runs on a Ray cluster. Workers keep one model each; only this process writes records."""

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
from noiser.experiments.ray.cluster import CONTINUES, Cluster, check_execution, one_line
from noiser.experiments.schedule import (
    PreparedRun,
    RunProgress,
    chunks,
    count_failures,
    new_records,
    remaining_samples,
    screened_cells,
)
from noiser.experiments.trials import GridCell, Sample
from noiser.experiments.worker import Records, failure_records
from noiser.storage import Writer

DEPTH = 2
"""Chunks that a worker has at a time: the one that it computes, and one that waits there, so that the worker never waits."""
MAX_WORKER_LOSSES = 3
"""A sample is given up after this many lost workers. After this many workers that could not start, no further ones are started."""
GRACE = 5.0
"""Seconds that running chunks have left when the run's time is up."""
LOST = "error(WorkerLost)"


@dataclass(frozen=True)
class _Chunk:
    """Samples that are computed together."""

    samples: Sequence[Sample]
    cell: GridCell
    losses: int = 0
    """Workers that were lost while they computed it."""
    suspect: bool = False
    """True if it was on a lost worker. It then gets a worker to itself, so that the next loss is certainly due to it."""


@dataclass(eq=False)
class WorkerHandle:
    """A worker, as the driver sees it."""

    actor: Any
    loading: Any
    """The promise of its model; None once the model is loaded."""
    name: str = "a worker"
    jobs: list[tuple[Any, _Chunk]] = field(default_factory=list)
    """Promises of results, in the order in which the worker computes them."""

    @property
    def has_room(self) -> bool:
        """True if one more chunk may be sent to it."""
        return self.loading is None and len(self.jobs) < DEPTH and not any(chunk.suspect for _, chunk in self.jobs)


class _TimeUpError(Exception):
    """The run's time is up, and something is left to do."""


def run_on_ray(
    prepared: PreparedRun,
    folder: RunFolder,
    index: RecordIndex,
    execution: ExecutionConfig,
    progress: RunProgress,
    interrupts: Interrupts,
    deadline: float | None,
) -> bool:
    """The executor that computes everything on Ray's workers. Returns True if the deadline came first.

    Only this process writes, each record once, so the workers need no shared disk. A lost worker is replaced, and its samples run
    again; a sample that three workers were lost over ends as error(WorkerLost). Raises OptionError if Ray is missing or the cluster is
    too small, and RunError if the cluster cannot be reached or no worker starts.
    """
    check_execution(execution)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(Writer(folder.records, "ray")))
        cluster = Cluster(prepared, execution, progress, interrupts, stack)
        for model in prepared.fingerprint["models"]:
            with contextlib.closing(WorkerPool(cluster, model, deadline)) as pool:
                try:
                    cells = screened_cells(prepared, folder, model, pool.screen, progress)
                    samples = remaining_samples(cells, index, execution)
                    progress.expect(len(samples))
                    for records in pool.run([_Chunk(*chunk) for chunk in chunks(samples, cells, execution.max_samples)]):
                        with interrupts.postponed():
                            writer.write(new_records(records, index, execution))
                        progress.advance(count_failures(records))
                except _TimeUpError:
                    progress.say(f"stopping after {execution.time_limit:g} s; the same command continues from here", keep=True)
                    return True
    return False


class WorkerPool:
    """The workers of one model, and the chunks that they have to compute."""

    def __init__(self, cluster: Cluster, model: str, deadline: float | None) -> None:
        self._cluster, self._model, self._deadline = cluster, model, deadline
        self._workers: list[WorkerHandle] = []
        self._limit: int | None = None
        self._failed_starts = 0
        self._waiting: deque[_Chunk] = deque()
        self._suspects: deque[_Chunk] = deque()
        self._rows: dict[str, dict[str, Mapping[str, Any]]] = {}

    def screen(self, data: str) -> dict[str, Any]:
        """`ModelWorker.screen` on one worker. Raises RunError if three workers were lost over it."""
        error: Exception | None = None
        for _ in range(MAX_WORKER_LOSSES):
            worker = self._ready_worker()
            promise = worker.actor.screen.remote(data)
            while self._cluster.wait_any([promise]) is None:
                self._cluster.check_health(has_workers=True)
            screening, error = self._cluster.result(promise)
            if error is None:
                return screening
            _raise_if_permanent(error)
            self._drop(worker, error)
        raise RunError(f"{MAX_WORKER_LOSSES} workers were lost while they screened {data}; the last error was {one_line(error)}")

    def run(self, chunks: Sequence[_Chunk]) -> Iterator[Records]:
        """The records of every sample, in the order in which they come. Raises _TimeUpError at the deadline."""
        self._waiting.extend(chunks)
        while self._waiting or self._suspects or self._count_jobs():
            if not self._is_late():
                self._start_workers(len(self._waiting) + len(self._suspects) + self._count_jobs())
                self._assign()
            elif self._is_late(GRACE) or not self._count_jobs():
                raise _TimeUpError
            yield from self._wait_once()

    def close(self) -> None:
        """End all workers."""
        while self._workers:
            self._cluster.stop_worker(self._workers.pop().actor)

    def _ready_worker(self) -> WorkerHandle:
        while (ready := next((worker for worker in self._workers if worker.loading is None), None)) is None:
            if self._is_late():
                raise _TimeUpError
            self._start_workers(1)
            list(self._wait_once())
        return ready

    def _count_jobs(self) -> int:
        return sum(len(worker.jobs) for worker in self._workers)

    def _is_late(self, grace: float = 0.0) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline + grace

    def _start_workers(self, useful: int) -> None:
        limit = self._cluster.allocation.workers if self._limit is None else self._limit
        while len(self._workers) < min(limit, useful):
            actor = self._cluster.start_worker(self._model)
            self._workers.append(WorkerHandle(actor, actor.load.remote()))

    def _assign(self) -> None:
        """Give every worker a chunk to compute, suspects before others, and then a chunk that waits."""
        for depth in range(DEPTH):
            for worker in self._workers:
                source = self._suspects if depth == 0 and self._suspects else self._waiting
                if source and worker.has_room and len(worker.jobs) == depth:
                    chunk = source.popleft()
                    rows = {sample.id: self._row(chunk.cell, sample) for sample in chunk.samples}
                    worker.jobs.append((worker.actor.run.remote(chunk.samples, rows), chunk))

    def _row(self, cell: GridCell, sample: Sample) -> Mapping[str, Any]:
        if cell.data not in self._rows:
            self._rows[cell.data] = {row["id"]: row for row in cell.rows or ()}
        return self._rows[cell.data][sample.id]

    def _wait_once(self) -> Iterator[Records]:
        """Wait a short time for one promise, and handle it."""
        owners: dict[Any, WorkerHandle] = {}
        for worker in self._workers:
            owners |= dict.fromkeys([worker.loading] if worker.loading is not None else [promise for promise, _ in worker.jobs], worker)
        promise = self._cluster.wait_any([*owners])
        self._cluster.check_health(has_workers=any(worker.loading is None for worker in self._workers))
        if promise is None:
            return
        worker = owners[promise]
        result, error = self._cluster.result(promise)
        if worker.loading is not None:
            self._handle_start(worker, result, error)
        elif error is None:
            worker.jobs = [job for job in worker.jobs if job[0] != promise]
            yield from result
        else:
            yield from self._handle_loss(worker, error)

    def _handle_start(self, worker: WorkerHandle, name: Any, error: Exception | None) -> None:
        if error is None:
            worker.loading, worker.name, self._failed_starts = None, name, 0
            self._cluster.progress.say(f"{self._model} is loaded: {name}")
            return
        _raise_if_permanent(error)
        self._drop(worker, error)
        self._failed_starts += 1
        if self._failed_starts == MAX_WORKER_LOSSES:
            self._limit, self._failed_starts = sum(other.loading is None for other in self._workers), 0
            if not self._limit:
                raise RunError(f"{MAX_WORKER_LOSSES} workers in a row could not start; the last error was {one_line(error)}. {CONTINUES}")
            self._cluster.progress.say(f"going on with {self._limit} workers", keep=True)

    def _handle_loss(self, worker: WorkerHandle, error: Exception) -> Iterator[Records]:
        """Keep what a lost worker had finished, and blame the first chunk of the rest: as far as one can know, it was running.

        Its result may have been lost on the way, and the next chunk be to blame. So each is tried again alone.
        """
        self._drop(worker, error)
        unfinished = []
        for promise, chunk in worker.jobs:
            result, missing = self._cluster.result(promise) if self._cluster.wait_any([promise], 0.0) is not None else (None, error)
            if missing is None and result is not None:
                yield from result
            else:
                unfinished.append(chunk)
        for chunk in unfinished[:1]:
            yield from self._blame(chunk, error)
        self._suspects.extend(replace(chunk, suspect=True) for chunk in unfinished[1:])

    def _blame(self, chunk: _Chunk, error: Exception) -> Iterator[Records]:
        for sample in chunk.samples:
            if chunk.losses + 1 < MAX_WORKER_LOSSES:
                self._suspects.append(_Chunk([sample], chunk.cell, chunk.losses + 1, suspect=True))
            else:
                message = f"{MAX_WORKER_LOSSES} workers were lost over it; the last error was {one_line(error)}"
                yield failure_records(sample, LOST, message, "")

    def _drop(self, worker: WorkerHandle, error: Exception) -> None:
        self._workers.remove(worker)
        self._cluster.stop_worker(worker.actor)
        self._cluster.progress.say(f"{worker.name} was lost ({one_line(error)}); others do its work", keep=True)


def _raise_if_permanent(error: Exception) -> None:
    """Raise an error that every other worker would raise as well."""
    if isinstance(error, NoiserError) and not isinstance(error, RunError | DeviceMemoryError):
        raise error
