"""What every executor of a run shares: the prepared plan, what is left to do, and which records are new."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from noiser.data import Dataset
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.interrupts import Interrupts
from noiser.experiments.plan import ExecutionConfig, Plan
from noiser.experiments.trials import GridCell, Sample, Work, due_again, failed, unfinished
from noiser.experiments.worker import Records
from noiser.storage import create_once


@runtime_checkable  # so that our tests can check the arguments' types
class Watch(Protocol):
    """Whoever wants to see a run go on."""

    def say(self, message: str, *, keep: bool = False) -> None:
        """What is going on; `keep` where it should stay to be read."""
        ...

    def expect(self, samples: int) -> None:
        """So many more samples are to be done."""
        ...

    def advance(self, failures: int) -> None:
        """A sample is done, so many of its trials failed."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A plan whose models and data were found."""

    plan: Plan
    identity: Mapping[str, Any]
    datasets: Mapping[str, Dataset]
    """By the data choice's label."""


Executor = Callable[[Prepared, RunFolder, RecordIndex, ExecutionConfig, Watch, Interrupts, float | None], bool]
"""Does what is left of a run and writes its records. Returns True if the deadline (on the monotonic clock) came first."""


def screened(prepared: Prepared, folder: RunFolder, model: str, bench: Any, watch: Watch) -> list[GridCell]:
    """The model's parts, all of them screened: what nobody has screened yet now is."""
    for data in prepared.identity["data"]:
        path = folder.screened(model, data)
        if not path.exists():
            watch.say(f"which prompts of {data} does {model} answer?")
            create_once(path, bench.station.screen(data))
    return [part for part in Work(folder).parts if part.model == model]


def to_do(parts: Sequence[GridCell], found: RecordIndex, how: ExecutionConfig) -> list[Sample]:
    """This process's share of what is not finished, in the order of the plan."""
    which, of = how.shard
    mine = [sample for part in parts for sample in part.samples][which::of]
    return unfinished(mine, found, lambda status: due_again(status, retry=how.retry))


def chunks(samples: Sequence[Sample], parts: Sequence[GridCell], size: int) -> Iterator[tuple[list[Sample], GridCell]]:
    """At most so many samples of one part at a time."""
    for part in parts:
        own = [sample for sample in samples if sample.data == part.data]
        for start in range(0, len(own), size):
            yield own[start : start + size], part


def fresh(records: Records, found: RecordIndex, how: ExecutionConfig) -> Records:
    """The records that the folder did not have when the run was started, and those of trials that are run again."""

    def wanted(record: Mapping[str, Any]) -> bool:
        before = found.records.get(record["key"])
        return before is None or due_again(before["status"], retry=how.retry)

    return [record for record in records if wanted(record)]


def failures(records: Records) -> int:
    """How many of a sample's trials failed."""
    return sum(failed(record["status"]) for record in records)
