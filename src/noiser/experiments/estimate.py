"""What a run will take: `--dry-run` computes a few samples of each cell and throws them away, a forecast counts their rows."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from noiser.attribution.attribute import attribute
from noiser.attribution.estimate import rows_counted
from noiser.errors import NoiserError
from noiser.experiments.fingerprint import display_settings
from noiser.experiments.folder import RUN, RecordIndex, RunFolder
from noiser.experiments.plan import ExecutionConfig
from noiser.experiments.schedule import PreparedRun, RunProgress
from noiser.experiments.schema import ATTRIBUTION, SAMPLE
from noiser.experiments.trials import GridCell, Sample, make_cell, unfinished
from noiser.experiments.worker import ModelWorker, Records
from noiser.lm.devices import peak_bytes

CALIBRATION_SAMPLES = 3
"""Samples of each cell that are computed."""
CALIBRATION_SECONDS = 60.0
"""Seconds after which no further sample of a cell is started."""
SUMS = ("trials", "seconds", "forward_tokens", "backward_tokens", "clues")
"""Fields of a CellEstimate that add up over the cells."""


@dataclass(frozen=True)
class CellEstimate:
    """The estimate for one model on one data set."""

    model: str
    data: str
    rows: int
    """Rows that were screened to find the samples."""
    samples: int
    trials: int
    seconds: float
    forward_tokens: int
    backward_tokens: int
    clues: int
    """Questions to judges, including those that the cache may answer."""


@dataclass(frozen=True)
class Estimate:
    """The estimate for a whole run."""

    cells: Sequence[CellEstimate]
    peak_bytes: int
    calibrated: int
    """Samples that were computed."""
    spent: float
    """Seconds that the estimate itself took."""

    @property
    def trials(self) -> int:
        """Trials of all cells."""
        return sum(cell.trials for cell in self.cells)

    @property
    def seconds(self) -> float:
        """Seconds for one worker like this one."""
        return sum(cell.seconds for cell in self.cells)

    @property
    def forward_tokens(self) -> int:
        """Tokens that go through the model."""
        return sum(cell.forward_tokens for cell in self.cells)

    @property
    def backward_tokens(self) -> int:
        """Tokens that gradients go through."""
        return sum(cell.backward_tokens for cell in self.cells)

    @property
    def clues(self) -> int:
        """Questions to judges."""
        return sum(cell.clues for cell in self.cells)

    def to_dict(self) -> dict[str, Any]:
        """The estimate as plain values."""
        sums = {name: getattr(self, name) for name in SUMS}
        measured = {"peak_bytes": self.peak_bytes, "calibrated": self.calibrated, "spent": self.spent}
        return {**sums, **measured, "parts": [*map(asdict, self.cells)]}


def estimate(prepared: PreparedRun, out: Path | None, execution: ExecutionConfig, progress: RunProgress) -> Estimate:
    """Screen the data, compute up to three samples of each cell, and scale up to all samples.

    Samples that the folder `out` already has do not count. Nothing is written, except replies of judges, which are cached as in a run.
    """
    start, calibrated, peak = perf_counter(), 0, 0
    index = _existing_records(prepared, out)
    cells = []
    for model in prepared.fingerprint["models"]:
        progress.say(f"loading {model}")
        worker = ModelWorker(prepared.plan, prepared.fingerprint, model, prepared.datasets, replace(execution, timeout=None))
        for data in prepared.fingerprint["data"]:
            progress.say(f"trying {model} on {data}")
            cell = make_cell(prepared.fingerprint, model, data, worker.screen(data)["rows"])
            samples = list(cell.samples) if index is None else unfinished(cell.samples, index)
            count, estimated = _calibrate(worker, cell, samples)
            calibrated += count
            cells.append(estimated)
        peak = max(peak, peak_bytes(worker.lm.devices))
    return Estimate(cells, peak, calibrated, perf_counter() - start)


def forecast(prepared: PreparedRun, out: Path | None, execution: ExecutionConfig, progress: RunProgress) -> Estimate:
    """Count the tokens of a few samples of each cell without running their rows, and time some rows of one method.

    It takes seconds where `estimate` takes minutes. The counts are the least: a search, or an integration until it is precise enough,
    takes more. Questions to judges are not counted.
    """
    start, cells, peak = perf_counter(), [], 0
    index, unjudged = _existing_records(prepared, out), _without_judges(prepared)
    for model in unjudged.fingerprint["models"]:
        progress.say(f"loading {model}")
        worker = ModelWorker(unjudged.plan, unjudged.fingerprint, model, unjudged.datasets, replace(execution, timeout=None))
        for data in unjudged.fingerprint["data"]:
            cell = make_cell(unjudged.fingerprint, model, data, worker.screen(data)["rows"])
            whole = make_cell(prepared.fingerprint, model, data, cell.rows or ())
            left = {sample.id for sample in (whole.samples if index is None else unfinished(whole.samples, index))}
            samples = [sample for sample in cell.samples if sample.id in left]
            with rows_counted(worker.lm):
                _, counted = _calibrate(worker, cell, samples)
            rate = _seconds_per_token(worker, samples)
            cells.append(replace(counted, seconds=(counted.forward_tokens + counted.backward_tokens) * rate))
        peak = max(peak, peak_bytes(worker.lm.devices))
    return Estimate(cells, peak, 0, perf_counter() - start)


def _without_judges(prepared: PreparedRun) -> PreparedRun:
    """The same run without the metrics that ask a judge."""
    kept = [column.label for column in prepared.plan.columns() if not column.spec.metric.judged]
    metrics = {label: prepared.fingerprint["metrics"][label] for label in kept}
    plan = replace(prepared.plan, metrics=tuple(kept), judges=())
    return replace(prepared, plan=plan, fingerprint={**prepared.fingerprint, "metrics": metrics})


def _seconds_per_token(worker: ModelWorker, samples: Sequence[Sample]) -> float:
    """The time of rows of noise on the first sample. 0 without samples, or if its rows fail."""
    prompts = {row.id: row.prompt for row in worker.datasets[samples[0].data].rows} if samples else {}
    with suppress(NoiserError):
        for sample in samples[:1]:
            cost = attribute(worker.lm, prompts[sample.id], "noiser:bound=none").cost
            return cost.seconds / (cost.forward_tokens + cost.backward_tokens)
    return 0.0


def _existing_records(prepared: PreparedRun, out: Path | None) -> RecordIndex | None:
    if out is None or not (out / RUN).exists():
        return None
    return RecordIndex(RunFolder.start(out, prepared.fingerprint, display_settings(prepared.plan)), whole=False)


def _calibrate(worker: ModelWorker, cell: GridCell, samples: Sequence[Sample]) -> tuple[int, CellEstimate]:
    """How many samples were computed, and the estimate for all of them."""
    rows = {row["id"]: row for row in cell.rows or ()}
    start, seconds, tokens, questions = perf_counter(), [], [0, 0], _count_questions(worker)
    for index in _spread(len(samples)):
        if seconds and perf_counter() - start > CALIBRATION_SECONDS:
            break
        begin = perf_counter()
        (records,) = worker.run([samples[index]], rows)
        seconds.append(perf_counter() - begin)
        tokens = [sum_costs(records, "forward_tokens") + tokens[0], sum_costs(records, "backward_tokens") + tokens[1]]
    if len(seconds) > 1:
        seconds[0] = min(seconds[0], max(seconds[1:]))  # the first sample also finds out what the model can do
    scale = len(samples) / max(1, len(seconds))
    forward, backward, asked = (round(count * scale) for count in (*tokens, _count_questions(worker) - questions))
    trials = len(samples) * len(cell.specs)
    return len(seconds), CellEstimate(
        cell.model, cell.data, len(rows), len(samples), trials, sum(seconds) * scale, forward, backward, asked
    )


def _spread(count: int) -> list[int]:
    """Up to CALIBRATION_SAMPLES indices, evenly spread over `count` samples."""
    if not count:
        return []
    return sorted({round(step * (count - 1) / max(1, CALIBRATION_SAMPLES - 1)) for step in range(CALIBRATION_SAMPLES)})


def _count_questions(worker: ModelWorker) -> int:
    return sum(judge.counts.get("clues", 0) for judge in worker.judges)


def sum_costs(records: Records, name: str) -> int:
    """Tokens that a sample took: its methods, and all metrics together."""
    costs: list[Mapping[str, Any]] = [
        record["cost"] for record in records if record["kind"] in (ATTRIBUTION, SAMPLE) and record.get("cost")
    ]
    return sum(cost[name] for cost in costs)
