"""The samples of a run and their trials: what has to be there in the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noiser.experiments.fingerprint import key, trial_key
from noiser.experiments.folder import RecordIndex, RunFolder, failed
from noiser.experiments.screening import NO_TARGET, NONFINITE, OOM, OTHERWISE
from noiser.results.records import Record
from noiser.storage import read_created

ATTRIBUTION, VALUE, SAMPLE = "attribution", "value", "sample"
_SKIPPED = {OTHERWISE: "not answered", NO_TARGET: "no target"}


@dataclass(frozen=True)
class Trial:
    """One record that a run has to have."""

    key: str
    """A hash of all that changes its numbers, and of nothing else."""
    kind: str
    """`attribution`: a method's scores; `value`: a metric of them."""
    method: str
    metric: str = ""


@dataclass(frozen=True)
class Sample:
    """A prompt that a model is explained on."""

    model: str
    data: str
    id: str
    group: str | None
    hash: str
    """Of everything that its numbers depend on, apart from methods and metrics."""
    trials: tuple[Trial, ...]

    @property
    def key(self) -> str:
        """Of the record that says what the sample is, written when all others are."""
        return key(SAMPLE, self.hash)

    def record_keys(self) -> list[str]:
        """All its records'; none where nothing is asked of it."""
        return [] if not self.trials else [self.key, *(trial.key for trial in self.trials)]


@dataclass(frozen=True)
class GridCell:
    """One model on one data set."""

    model: str
    data: str
    rows: Sequence[Mapping[str, Any]] | None
    """What the screening found for each row that was looked at; None where it was not yet screened."""
    samples: tuple[Sample, ...]
    """The rows that were kept."""
    trials: Sequence[Any]
    """What is asked of every sample: a hash of what it depends on; kind, method and metric."""


class Work:
    """A run's parts and samples, as far as they are known."""

    def __init__(self, folder: RunFolder) -> None:
        self.identity = folder.identity
        self.trials = asked_of_each(folder.identity)
        """What is asked of every sample: a hash of what it depends on; kind, method and metric."""
        self.parts = [self._part(folder, model, data) for model in folder.identity["models"] for data in folder.identity["data"]]

    @property
    def known(self) -> bool:
        """Whether everything was screened, so that it is known what there is to do."""
        return all(part.rows is not None for part in self.parts)

    def samples(self) -> Iterator[Sample]:
        """All of them, in the order of the plan."""
        for part in self.parts:
            yield from part.samples

    def _part(self, folder: RunFolder, model: str, data: str) -> GridCell:
        path = folder.screened(model, data)
        return make_part(self.identity, model, data, read_created(path)["rows"] if path.exists() else None, self.trials)


def make_part(
    identity: Mapping[str, Any], model: str, data: str, rows: Sequence[Mapping[str, Any]] | None, trials: Sequence[Any] = ()
) -> GridCell:
    """A part from what its screening found; None where it was not screened yet."""
    trials = trials or asked_of_each(identity)
    samples = []
    for row in rows or ():
        if row["kept"]:
            own = tuple(Trial(trial_key(row["hash"], asked), *what) for asked, what in trials)
            samples.append(Sample(model, data, row["id"], row["group"], row["hash"], own))
    return GridCell(model, data, rows, tuple(samples), trials)


def asked_of_each(identity: Mapping[str, Any]) -> list[tuple[str, tuple[str, str, str]]]:
    """What is asked of every sample: a hash of what it depends on; kind, method and metric."""
    found = []
    for label, method in identity["methods"].items():
        if "of" not in method:
            found.append((key(ATTRIBUTION, method), (ATTRIBUTION, label, "")))
        for metric, measured in identity["metrics"].items():
            found.append((key(VALUE, method, measured, identity["seed"]), (VALUE, label, metric)))
    return found


def sample_hash(identity: Mapping[str, Any], model: str, data: str, row: Mapping[str, Any]) -> str:
    """What a sample's numbers depend on: the model, the set (other prompts lend tokens to operator=resample), how it is asked,
    the prompt and the target; not how many others are run."""
    asked = {name: value for name, value in identity["data"][data].items() if name not in ("limit", "rows")}
    return key(identity["numbers"], identity["models"][model], asked, row["id"], row["prompt"], row["target_ids"])


def row_status(row: Mapping[str, Any]) -> str:
    """What a row's trials end as where it was not kept."""
    reason = row["reason"]
    if reason in (NONFINITE, OOM):
        return reason
    return f"skipped({_SKIPPED[reason]})" if reason in _SKIPPED else "error(PromptError)"


UNJUDGED = "error(JudgeError)"
"""What a judge did not answer: the same command asks again."""


def due_again(status: str, *, retry: bool) -> bool:
    """Whether a trial that ended so is run again: where a judge gave no reply, and with `retry` where anything failed."""
    return status == UNJUDGED or (retry and failed(status))


def unfinished(samples: Sequence[Sample], found: RecordIndex, again: Callable[[str], bool] = lambda _: False) -> list[Sample]:
    """The samples that lack a record, or have one whose status is to be run again."""

    def done(name: str) -> bool:
        record = found.records.get(name)
        return record is not None and not again(record["status"])

    return [sample for sample in samples if not all(map(done, sample.record_keys()))]


def statuses(samples: Sequence[Sample], found: RecordIndex) -> dict[str, int]:
    """How many trials ended how, `missing` among them: they add up to all trials."""
    counts: dict[str, int] = {}
    for sample in samples:
        for trial in sample.trials:
            record = found.records.get(trial.key)
            status = "missing" if record is None else record["status"]
            counts[status] = counts.get(status, 0) + 1
    return counts


def values(part: GridCell, found: RecordIndex) -> list[Record]:
    """The part's values as an evaluation has them; what is missing is left out."""
    records = []
    for sample in part.samples:
        for trial in sample.trials:
            record = found.records.get(trial.key) if trial.kind == VALUE else None
            if record is not None:
                said = record["status"], record.get("value"), record.get("message", "")
                also = record.get("also", {})
                records.append(Record(sample.id, sample.group, trial.method, trial.metric, *said, extra=also))
    return records
