"""How a run stands: what is done, how the trials ended, what is damaged. It reads the folder and needs no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from noiser.experiments.folder import RecordIndex, RunFolder, is_failure
from noiser.experiments.trials import RunContents, Sample, count_statuses, row_status, unfinished

MAX_REASONS = 5
"""Reasons of unreadable rows that a status holds."""


@dataclass(frozen=True)
class RunStatus:
    """The state of a run."""

    samples: int
    done: int
    """Samples that have all their records."""
    statuses: Mapping[str, int]
    """How many of all planned trials have each status, `skipped(...)` and `missing` included."""
    failed: int
    """Samples with a failed trial, and rows that could not be read."""
    damaged: Sequence[str] = field(default=())
    """Damaged lines. Their trials are run again."""
    complete: bool = False
    unreadable: int = 0
    """Rows that could not be read. They are no samples, but they count as failed."""
    unreadable_reasons: Sequence[str] = ()
    """The first few reasons why rows could not be read, each with its data set and row."""
    stopped: bool = False
    """True if this process stopped before its share was done because its time was up."""

    @property
    def planned(self) -> int:
        """The number of trials: the sum of the statuses."""
        return sum(self.statuses.values())


def run_status(folder: RunFolder, index: RecordIndex | None = None, contents: RunContents | None = None) -> RunStatus:
    """The state of the run in a folder. `index` and `contents` are read if they are not given."""
    index, contents = index or RecordIndex(folder, whole=False), contents or RunContents(folder)
    samples = list(contents.samples())
    counts = count_statuses(samples, index)
    reasons: list[str] = []
    for data, row in ((cell.data, row) for cell in contents.cells for row in cell.dropped):
        status = row_status(row)
        counts[status] = counts.get(status, 0) + len(contents.specs)
        if is_failure(status):
            reasons.append(f"{data}, row {row['id']}: {row['reason']}")
    unreadable = len(reasons)
    lacking = unfinished(samples, index)
    failed = unreadable + sum(_has_failure(sample, index) for sample in samples)
    planned = sum(len(cell.rows or ()) for cell in contents.cells) * len(contents.specs)
    assert sum(counts.values()) == planned, f"{counts} for {planned} planned"
    complete = contents.is_known and not lacking
    damaged = [*map(str, index.damaged)]
    return RunStatus(len(samples), len(samples) - len(lacking), counts, failed, damaged, complete, unreadable, reasons[:MAX_REASONS])


def _has_failure(sample: Sample, index: RecordIndex) -> bool:
    records = (index.find(trial.key, trial.kind) for trial in sample.trials)
    return any(is_failure(record["status"]) for record in records if record is not None)
