"""A run from its plan to its last record. The same call starts a run, continues it, or finds it finished."""

import gc
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from noiser.data import MATCHES, Dataset, read
from noiser.errors import OptionError
from noiser.experiments.fingerprint import display_settings, make_fingerprint
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.interrupts import Interrupts
from noiser.experiments.plan import DataChoice, ExecutionConfig, Plan
from noiser.experiments.schedule import (
    Executor,
    PreparedRun,
    RunProgress,
    chunks,
    count_failures,
    new_records,
    remaining_samples,
    screened_cells,
)
from noiser.experiments.status import RunStatus, run_status
from noiser.experiments.worker import ModelWorker
from noiser.judges.protocol import tally
from noiser.lm.load import identify
from noiser.storage import Writer


def prepare(plan: Plan, execution: ExecutionConfig) -> PreparedRun:
    """Read the data, and find out the models' revisions without reading weights. Raises NoiserError for what is missing."""
    datasets = {choice.label: read(choice.name, choice.path, choice.fields) for choice in plan.data}
    models = {}
    for choice in plan.models:
        identified = identify(
            choice.name,
            tokenizer=choice.tokenizer,
            adapter=choice.adapter,
            revision=choice.revision,
            dtype=choice.dtype,
            device=execution.device,
            trust_remote_code=choice.trust_remote_code,
        )
        template_args = {"template_args": choice.read_template_args()} if choice.template_args is not None else {}
        models[choice.label] = {**vars(identified), "attention": choice.attention, **template_args}
    data = {choice.label: _data_facts(choice, datasets[choice.label]) for choice in plan.data}
    judges = plan.open_judges(execution.judge_config)
    if execution.judge_config.cache == "only":
        for judge in judges:
            judge.check()
    return PreparedRun(plan, make_fingerprint(plan, models, data, judges), datasets)


def _data_facts(choice: DataChoice, data: Dataset) -> dict[str, Any]:
    """The part of the fingerprint that describes a data set."""
    generate = data.generate if choice.generate is None else choice.generate or None
    match = choice.match or data.match
    if match not in MATCHES:
        raise OptionError(f"{choice.name}: match must be one of {', '.join(MATCHES)}; got {match!r}")
    facts = {"sha256": data.sha256, "rows": len(data.rows), "kind": data.kind, "complete": data.complete}
    fields = {} if choice.fields is None else {"fields": choice.fields}
    return {**facts, "match": match, "generate": generate, "limit": choice.limit, **fields}


def run(prepared: PreparedRun, out: Path, execution: ExecutionConfig, progress: RunProgress, executor: Executor) -> RunStatus:
    """Compute what is left of a run in the folder `out`. Returns the state of the run.

    Raises RunError if the folder holds another run, or cannot be written.
    """
    folder = RunFolder.start(out, prepared.fingerprint, display_settings(prepared.plan))
    index = RecordIndex(folder, whole=False)
    for damage in index.damaged:
        folder.quarantine(damage)
        progress.say(f"damaged and run again: {damage}; a copy is in {folder.path.name}/quarantine", keep=True)
    deadline = time.monotonic() + execution.time_limit if execution.time_limit is not None else None
    with Interrupts() as interrupts:
        stopped = executor(prepared, folder, index, execution, progress, interrupts, deadline)
    return replace(run_status(folder, index if index.is_current else None), stopped=stopped)


def run_locally(
    prepared: PreparedRun,
    folder: RunFolder,
    index: RecordIndex,
    execution: ExecutionConfig,
    progress: RunProgress,
    interrupts: Interrupts,
    deadline: float | None,
) -> bool:
    """The executor that computes everything in this process. Returns True if the deadline came first."""
    writer = Writer(folder.records, f"shard-{execution.shard[0]}-of-{execution.shard[1]}")
    try:
        for model in prepared.fingerprint["models"]:
            lazy = _LazyWorker(prepared, model, execution, progress)
            cells = screened_cells(prepared, folder, model, lambda data, lazy=lazy: lazy.worker.screen(data), progress)
            samples = remaining_samples(cells, index, execution)
            progress.expect(len(samples))
            for chunk, cell in chunks(samples, cells, execution.max_samples):
                if deadline is not None and time.monotonic() > deadline:
                    progress.say(f"stopping after {execution.time_limit:g} s; the same command continues from here", keep=True)
                    lazy.close()
                    return True
                rows = {row["id"]: row for row in cell.rows or ()}
                for records in lazy.worker.run(chunk, rows):
                    with interrupts.postponed():
                        writer.write(new_records(records, index, execution))
                    progress.advance(count_failures(records))
            lazy.close()
    finally:
        writer.close()
    return False


class _LazyWorker:
    """A worker whose model is loaded when there is something to compute."""

    def __init__(self, prepared: PreparedRun, model: str, execution: ExecutionConfig, progress: RunProgress) -> None:
        self._arguments = prepared.plan, prepared.fingerprint, model, prepared.datasets, execution
        self._progress = progress
        self._worker: ModelWorker | None = None

    @property
    def worker(self) -> ModelWorker:
        if self._worker is None:
            self._progress.say(f"loading {self._arguments[2]}")
            self._worker = ModelWorker(*self._arguments)
        return self._worker

    def close(self) -> None:
        """Report what the judges did, and free the memory for the next model."""
        if self._worker is not None:
            for judge in self._worker.judges:
                self._progress.say(tally(judge.name, judge.counts), keep=True)
            self._worker = None
            gc.collect()
