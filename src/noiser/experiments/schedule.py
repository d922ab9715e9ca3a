"""What every executor of a run shares: the prepared plan, the remaining samples, and which records are new."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from noiser.data import Dataset
from noiser.experiments.folder import RecordIndex, RunFolder, is_failure
from noiser.experiments.interrupts import Interrupts
from noiser.experiments.plan import ExecutionConfig, Plan
from noiser.experiments.trials import GridCell, RunContents, Sample, should_rerun, unfinished
from noiser.experiments.worker import Records
from noiser.storage import create_once


@runtime_checkable  # the tests check the types of arguments
class RunProgress(Protocol):
    """Receives the progress of a run."""

    def say(self, message: str, *, keep: bool = False) -> None:
        """Report what is going on. With `keep` the message stays visible."""
        ...

    def expect(self, samples: int) -> None:
        """Add this many samples to the total."""
        ...

    def advance(self, failures: int) -> None:
        """One sample is done; this many of its trials failed."""
        ...


@dataclass(frozen=True)
class PreparedRun:
    """A plan whose models and data were found."""

    plan: Plan
    fingerprint: Mapping[str, Any]
    datasets: Mapping[str, Dataset]
    """By the label of the data choice."""


Executor = Callable[[PreparedRun, RunFolder, RecordIndex, ExecutionConfig, RunProgress, Interrupts, float | None], bool]
"""Computes the rest of a run and writes its records. Returns True if the deadline (on the monotonic clock) came first."""


def screened_cells(
    prepared: PreparedRun, folder: RunFolder, model: str, screen: Callable[[str], dict[str, Any]], progress: RunProgress
) -> list[GridCell]:
    """The model's cells, all of them screened. Calls `screen` with each data set that nobody has screened yet."""
    for data in prepared.fingerprint["data"]:
        path = folder.screening(model, data)
        if not path.exists():
            progress.say(f"which prompts of {data} does {model} answer?")
            create_once(path, screen(data))
    return [cell for cell in RunContents(folder).cells if cell.model == model]


def remaining_samples(cells: Sequence[GridCell], index: RecordIndex, execution: ExecutionConfig) -> list[Sample]:
    """The unfinished samples of this process's shard, in the order of the plan."""
    shard, shards = execution.shard
    samples = [sample for cell in cells for sample in cell.samples][shard::shards]
    return unfinished(samples, index, lambda status: should_rerun(status, retry=execution.retry))


def chunks(samples: Sequence[Sample], cells: Sequence[GridCell], size: int) -> Iterator[tuple[list[Sample], GridCell]]:
    """At most `size` samples of one cell at a time."""
    for cell in cells:
        in_cell = [sample for sample in samples if sample.data == cell.data]
        for start in range(0, len(in_cell), size):
            yield in_cell[start : start + size], cell


def new_records(records: Records, index: RecordIndex, execution: ExecutionConfig) -> Records:
    """The records that the folder did not have when the run started, and those of trials that run again."""

    def is_new(record: Mapping[str, Any]) -> bool:
        before = index.find(record["key"], record["kind"])
        return before is None or should_rerun(before["status"], retry=execution.retry)

    return [record for record in records if is_new(record)]


def count_failures(records: Records) -> int:
    """How many of a sample's trials failed."""
    return sum(is_failure(record["status"]) for record in records)
