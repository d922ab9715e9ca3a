"""The samples of a run and their trials: every record that the run has to have in the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noiser.experiments.fingerprint import stable_hash, trial_key
from noiser.experiments.folder import RecordIndex, RunFolder, is_failure
from noiser.experiments.schema import ATTRIBUTION, NO_TARGET, NONFINITE, OOM, OTHER_ANSWER, SAMPLE, VALUE
from noiser.results.records import Record

_SKIPPED = {OTHER_ANSWER: "not answered", NO_TARGET: "no target"}


@dataclass(frozen=True)
class TrialSpec:
    """One trial that every sample has."""

    hash: str
    """Of everything that the trial depends on beside the sample."""
    kind: str
    """`attribution`: the scores of a method. `value`: a metric of these scores."""
    method: str
    metric: str = ""


@dataclass(frozen=True)
class Trial:
    """One record that a run must have."""

    key: str
    """A hash of everything that changes the numbers, and of nothing else."""
    kind: str
    """`attribution` or `value`, as in TrialSpec."""
    method: str
    metric: str = ""


@dataclass(frozen=True)
class Sample:
    """A prompt that is explained."""

    model: str
    data: str
    id: str
    group: str | None
    hash: str
    """Of everything that its numbers depend on, without methods and metrics."""
    trials: tuple[Trial, ...]

    @property
    def key(self) -> str:
        """The key of the record that describes the sample. That record is written last."""
        return stable_hash(SAMPLE, self.hash)

    def record_kinds(self) -> dict[str, str]:
        """The kinds of all its records by their keys. Empty if the run has no methods."""
        return {self.key: SAMPLE, **{trial.key: trial.kind for trial in self.trials}} if self.trials else {}


@dataclass(frozen=True)
class GridCell:
    """One model on one data set."""

    model: str
    data: str
    rows: Sequence[Mapping[str, Any]] | None
    """What the screening found for each row it looked at. None: not screened yet."""
    samples: tuple[Sample, ...]
    """The rows that were kept."""
    specs: Sequence[TrialSpec]
    """The trials of every sample."""

    @property
    def dropped(self) -> list[Mapping[str, Any]]:
        """The rows that were not kept."""
        return [row for row in self.rows or () if not row["kept"]]


class RunContents:
    """The cells and samples of a run, as far as they are screened."""

    def __init__(self, folder: RunFolder) -> None:
        self.fingerprint = folder.fingerprint
        self.specs = trial_specs(folder.fingerprint)
        """The trials of every sample."""
        self.cells = [self._cell(folder, model, data) for model in folder.fingerprint["models"] for data in folder.fingerprint["data"]]

    @property
    def is_known(self) -> bool:
        """True if everything is screened, so that all samples are known."""
        return all(cell.rows is not None for cell in self.cells)

    def samples(self) -> Iterator[Sample]:
        """All samples, in the order of the plan."""
        for cell in self.cells:
            yield from cell.samples

    def _cell(self, folder: RunFolder, model: str, data: str) -> GridCell:
        return make_cell(self.fingerprint, model, data, folder.screened_rows(model, data), self.specs)


def make_cell(
    fingerprint: Mapping[str, Any],
    model: str,
    data: str,
    rows: Sequence[Mapping[str, Any]] | None,
    specs: Sequence[TrialSpec] = (),
) -> GridCell:
    """A cell from the rows of its screening; None for `rows` if it is not screened yet."""
    specs = specs or trial_specs(fingerprint)
    samples = []
    for row in rows or ():
        if row["kept"]:
            trials = tuple(Trial(trial_key(row["hash"], spec.hash), spec.kind, spec.method, spec.metric) for spec in specs)
            samples.append(Sample(model, data, row["id"], row["group"], row["hash"], trials))
    return GridCell(model, data, rows, tuple(samples), specs)


def trial_specs(fingerprint: Mapping[str, Any]) -> list[TrialSpec]:
    """The trials of every sample, in the order of the plan."""
    specs = []
    for label, method in fingerprint["methods"].items():
        if "of" not in method:
            specs.append(TrialSpec(stable_hash(ATTRIBUTION, method), ATTRIBUTION, label))
        for metric_label, metric in fingerprint["metrics"].items():
            specs.append(TrialSpec(stable_hash(VALUE, method, metric, fingerprint["seed"]), VALUE, label, metric_label))
    return specs


def sample_hash(fingerprint: Mapping[str, Any], model: str, data: str, row: Mapping[str, Any]) -> str:
    """A hash of everything that a sample's numbers depend on: the model, the data set, how it is used, the prompt and the target.

    A chat counts as it was rendered. The data set counts because operator=resample draws tokens from its other prompts. The number of
    other samples does not count.
    """
    usage = {name: value for name, value in fingerprint["data"][data].items() if name not in ("limit", "rows")}
    rendered = [row["rendered"]] if "rendered" in row else []
    return stable_hash(fingerprint["numbers"], fingerprint["models"][model], usage, row["id"], row["prompt"], row["target_ids"], *rendered)


def row_status(row: Mapping[str, Any]) -> str:
    """The status of all trials of a row that was not kept."""
    reason = row["reason"]
    if reason in (NONFINITE, OOM):
        return reason
    return f"skipped({_SKIPPED[reason]})" if reason in _SKIPPED else "error(PromptError)"


UNJUDGED = "error(JudgeError)"
"""The status if a judge gave no reply. The same command asks it again."""


def should_rerun(status: str, *, retry: bool) -> bool:
    """True for a trial that a judge did not answer and, with `retry`, for every failed trial."""
    return status == UNJUDGED or (retry and is_failure(status))


def unfinished(samples: Sequence[Sample], index: RecordIndex, rerun: Callable[[str], bool] = lambda _: False) -> list[Sample]:
    """The samples that lack a record, or have one whose status is to be run again."""

    def is_done(key: str, kind: str) -> bool:
        record = index.find(key, kind)
        return record is not None and not rerun(record["status"])

    return [sample for sample in samples if not all(is_done(key, kind) for key, kind in sample.record_kinds().items())]


def count_statuses(samples: Sequence[Sample], index: RecordIndex) -> dict[str, int]:
    """How many trials have each status, `missing` included. The counts add up to all trials."""
    counts: dict[str, int] = {}
    for sample in samples:
        for trial in sample.trials:
            record = index.find(trial.key, trial.kind)
            status = "missing" if record is None else record["status"]
            counts[status] = counts.get(status, 0) + 1
    return counts


def value_records(cell: GridCell, index: RecordIndex) -> list[Record]:
    """The metrics' values as an evaluation has them. Missing ones are left out."""
    records = []
    for sample in cell.samples:
        for trial in sample.trials:
            record = index.find(trial.key, VALUE) if trial.kind == VALUE else None
            if record is not None:
                value = None if record.get("value") is None else float(record["value"])
                extra = {name: float(number) for name, number in record.get("also", {}).items()}
                result = record["status"], value, record.get("message", "")
                records.append(Record(sample.id, sample.group, trial.method, trial.metric, *result, extra=extra))
    return records
