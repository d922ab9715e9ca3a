"""What a run would take: a few samples of each part are run, timed and thrown away."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from noiser.experiments.fingerprint import shown
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.plan import ExecutionConfig
from noiser.experiments.schedule import Prepared, Watch
from noiser.experiments.trials import ATTRIBUTION, SAMPLE, GridCell, make_part
from noiser.experiments.worker import ModelWorker, Records
from noiser.lm.devices import peak_bytes

CALIBRATED = 3
"""Samples of each part that are run."""
PATIENCE = 60.0
"""Seconds after which a part has to do with what was run so far."""


@dataclass(frozen=True)
class PartEstimate:
    """One model on one data set."""

    model: str
    data: str
    rows: int
    """That were looked at to find the samples."""
    samples: int
    trials: int
    seconds: float
    forward_tokens: int
    backward_tokens: int
    clues: int
    """That go to judges, those that the cache may answer among them."""


@dataclass(frozen=True)
class Estimate:
    """All of it."""

    parts: Sequence[PartEstimate]
    peak_bytes: int
    calibrated: int
    """Samples that were run."""
    spent: float
    """Seconds that the calibration took."""

    @property
    def trials(self) -> int:
        """Of all parts."""
        return sum(part.trials for part in self.parts)

    @property
    def seconds(self) -> float:
        """For one worker like this one."""
        return sum(part.seconds for part in self.parts)

    @property
    def forward_tokens(self) -> int:
        """Tokens through the model."""
        return sum(part.forward_tokens for part in self.parts)

    @property
    def backward_tokens(self) -> int:
        """Tokens that gradients are taken through."""
        return sum(part.backward_tokens for part in self.parts)

    @property
    def clues(self) -> int:
        """For judges."""
        return sum(part.clues for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        sums = {name: getattr(self, name) for name in ("trials", "seconds", "forward_tokens", "backward_tokens", "clues")}
        return {
            **sums,
            "peak_bytes": self.peak_bytes,
            "calibrated": self.calibrated,
            "spent": self.spent,
            "parts": [*map(asdict, self.parts)],
        }


def estimate(prepared: Prepared, out: Path | None, how: ExecutionConfig, watch: Watch) -> Estimate:
    """Screen, run up to three samples of each part, and scale up by how many there are. What a folder has already is not
    counted again. Nothing is written, but for the replies of judges, who are asked as in a run."""
    begun, calibrated, peak = perf_counter(), 0, 0
    there = RunFolder.start(out, prepared.identity, shown(prepared.plan)) if out is not None and (out / "run.json").exists() else None
    found = RecordIndex(there, whole=False) if there else None
    parts = []
    for model in prepared.identity["models"]:
        watch.say(f"loading {model}")
        station = ModelWorker(prepared.plan, prepared.identity, model, prepared.datasets, replace(how, timeout=None))
        for data in prepared.identity["data"]:
            watch.say(f"trying {model} on {data}")
            part = make_part(prepared.identity, model, data, station.screen(data)["rows"])
            left = [each for each in part.samples if found is None or not all(key in found.records for key in each.record_keys())]
            tried, own = _try(station, part, left)
            calibrated += tried
            parts.append(replace(own, samples=len(left), trials=len(left) * len(part.trials)))
        peak = max(peak, peak_bytes(station.lm.devices))
    return Estimate(parts, peak, calibrated, perf_counter() - begun)


def _try(station: ModelWorker, part: GridCell, left: Sequence[Any]) -> tuple[int, PartEstimate]:
    spread = sorted({round(place * (len(left) - 1) / max(1, CALIBRATED - 1)) for place in range(CALIBRATED)}) if left else []
    rows = {row["id"]: row for row in part.rows or ()}
    begun, seconds, tokens, asked = perf_counter(), [], [0, 0], _clues(station)
    for place in spread:
        if seconds and perf_counter() - begun > PATIENCE:
            break
        start = perf_counter()
        (records,) = station.work([left[place]], rows)
        seconds.append(perf_counter() - start)
        for column, name in enumerate(("forward_tokens", "backward_tokens")):
            tokens[column] += spent(records, name)
    if len(seconds) > 1:
        seconds[0] = min(seconds[0], max(seconds[1:]))  # the first one finds out what the model can do
    scale = len(left) / max(1, len(seconds))
    counts = (round(count * scale) for count in (*tokens, _clues(station) - asked))
    return len(seconds), PartEstimate(part.model, part.data, len(rows), 0, 0, sum(seconds) * scale, *counts)


def _clues(station: ModelWorker) -> int:
    return sum(judge.counts.get("clues", 0) for judge in station.judges)


def spent(records: Records, name: str) -> int:
    """Tokens that a sample took, methods and metrics together."""
    costs: list[Mapping[str, Any]] = [each["cost"] for each in records if each["kind"] in (ATTRIBUTION, SAMPLE) and each.get("cost")]
    return sum(cost[name] for cost in costs)
