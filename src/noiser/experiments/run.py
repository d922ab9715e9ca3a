"""A run from its plan to its last record: begun, gone on with, or found finished."""

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from noiser.data import Dataset, read
from noiser.errors import OptionError
from noiser.experiments.fingerprint import identity, shown
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.interrupts import Interrupts
from noiser.experiments.plan import DataChoice, ExecutionConfig, Plan
from noiser.experiments.schedule import Executor, Prepared, Watch, chunks, failures, fresh, screened, to_do
from noiser.experiments.trials import Work, failed, row_status, statuses, unfinished
from noiser.experiments.worker import ModelWorker
from noiser.judges.protocol import tally
from noiser.lm.load import identify
from noiser.storage import Writer


@dataclass(frozen=True)
class Outcome:
    """How a run stands."""

    samples: int
    done: int
    """Samples with all their records."""
    statuses: Mapping[str, int]
    """Of all planned trials, `skipped(...)` and `missing` among them."""
    failed: int
    """Samples with a trial that failed, and rows that could not be read."""
    damaged: Sequence[str] = field(default=())
    """Lines that were found damaged, and whose trials are run again."""
    complete: bool = False
    unreadable: int = 0
    """Rows that could not be read: they are no samples, but have failed."""
    stopped: bool = False
    """Whether this process stopped before its share was done, because its time was up."""

    @property
    def planned(self) -> int:
        """How many trials there are: the statuses add up to them."""
        return sum(self.statuses.values())


def prepare(plan: Plan, how: ExecutionConfig) -> Prepared:
    """Read the data and ask the models who they are, before any weights are read. Raises NoiserError for what is not there."""
    datasets = {choice.label: read(choice.name, choice.path) for choice in plan.data}
    models = {}
    for choice in plan.models:
        found = identify(
            choice.name, revision=choice.revision, dtype=choice.dtype, device=how.device, trust_remote_code=choice.trust_remote_code
        )
        models[choice.label] = {**vars(found), "attention": choice.attention}
    data = {choice.label: _asked(choice, datasets[choice.label]) for choice in plan.data}
    judges = plan.open_judges(how.judge_how)
    for judge in judges if how.judge_how.cache == "only" else ():
        judge.check()
    return Prepared(plan, identity(plan, models, data, judges), datasets)


def _asked(choice: DataChoice, data: Dataset) -> dict[str, Any]:
    generate = data.generate if choice.generate is None else choice.generate or None
    match = choice.match or data.match
    if match not in ("token", "word", "none"):
        raise OptionError(f"{choice.name}: match must be one of token, word, none; got {match!r}")
    said = {"sha256": data.sha256, "rows": len(data.rows), "kind": data.kind, "complete": data.complete}
    return {**said, "match": match, "generate": generate, "limit": choice.limit}


def run(prepared: Prepared, out: Path, how: ExecutionConfig, watch: Watch, executor: Executor) -> Outcome:
    """Do what is left to do of a run in its folder, and say how it stands. Raises RunError where the folder holds another run,
    or cannot be written."""
    folder = RunFolder.start(out, prepared.identity, shown(prepared.plan))
    found = RecordIndex(folder, whole=False)
    for damage in found.damaged:
        folder.quarantine(damage)
        watch.say(f"damaged and run again: {damage}; a copy is in {folder.path.name}/quarantine", keep=True)
    deadline = time.monotonic() + how.max_seconds if how.max_seconds is not None else None
    with Interrupts() as stopping:
        stopped = executor(prepared, folder, found, how, watch, stopping, deadline)
    return replace(outcome(folder, found if found.fresh else None), stopped=stopped)


def run_here(
    prepared: Prepared,
    folder: RunFolder,
    found: RecordIndex,
    how: ExecutionConfig,
    watch: Watch,
    stopping: Interrupts,
    deadline: float | None,
) -> bool:
    """Whether time was up before all was done."""
    writer = Writer(folder.records, f"shard-{how.shard[0]}-of-{how.shard[1]}")
    try:
        for model in prepared.identity["models"]:
            bench = _Lazy(prepared, model, how, watch)
            parts = screened(prepared, folder, model, bench, watch)
            todo = to_do(parts, found, how)
            watch.expect(len(todo))
            for chunk, part in chunks(todo, parts, how.at_once):
                if deadline is not None and time.monotonic() > deadline:
                    watch.say(f"stopping after {how.max_seconds:g} s; the same command goes on from here", keep=True)
                    bench.close()
                    return True
                rows = {row["id"]: row for row in part.rows or ()}
                for records in bench.station.work(chunk, rows):
                    with stopping.whole():
                        writer.write(fresh(records, found, how))
                    watch.advance(failures(records))
            bench.close()
    finally:
        writer.close()
    return False


class _Lazy:
    """A model that is loaded when there is something to do for it."""

    def __init__(self, prepared: Prepared, model: str, how: ExecutionConfig, watch: Watch) -> None:
        self._given = prepared.plan, prepared.identity, model, prepared.datasets, how
        self._watch = watch
        self._station: ModelWorker | None = None

    @property
    def station(self) -> ModelWorker:
        if self._station is None:
            self._watch.say(f"loading {self._given[2]}")
            self._station = ModelWorker(*self._given)
        return self._station

    def close(self) -> None:
        """Say what the judges took, and make room for the next model."""
        if self._station is not None:
            for judge in self._station.judges:
                self._watch.say(tally(judge.name, judge.counts), keep=True)
            self._station = None
            gc.collect()


def outcome(folder: RunFolder, found: RecordIndex | None = None, work: Work | None = None) -> Outcome:
    """How the run in a folder stands."""
    found, work = found or RecordIndex(folder, whole=False), work or Work(folder)
    samples = list(work.samples())
    counts = statuses(samples, found)
    unreadable = 0
    for row in (row for part in work.parts for row in part.rows or () if not row["kept"]):
        status = row_status(row)
        counts[status] = counts.get(status, 0) + len(work.trials)
        unreadable += failed(status)
    lacking = unfinished(samples, found)
    bad = unreadable + sum(
        any(failed(found.records[trial.key]["status"]) for trial in each.trials if trial.key in found.records) for each in samples
    )
    damaged = [str(each) for each in found.damaged]
    planned = sum(len(part.rows or ()) for part in work.parts) * len(work.trials)
    assert sum(counts.values()) == planned, f"{counts} for {planned} planned"
    return Outcome(len(samples), len(samples) - len(lacking), counts, bad, damaged, work.known and not lacking, unreadable=unreadable)
