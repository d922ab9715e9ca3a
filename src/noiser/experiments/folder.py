"""A run's folder: the run's fingerprint, the prompts that were kept, and the result of every trial. A pure function of its files."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from noiser.errors import RunError
from noiser.experiments.fingerprint import differences, stable_hash
from noiser.experiments.schema import record_problem, run_problem, screening_problem
from noiser.storage import Damage, create_once, read_created, scan, slug, write_file

RUN, RECORDS, SCREENED, QUARANTINE = "run.json", "records", "screened", "quarantine"
FAILED = ("error", "timeout", "oom", "nonfinite")
TOLERANCE, FLOOR = 1e-3, 0.1
"""Two values of one trial may differ by TOLERANCE times the larger one, or times FLOOR. Other machines round differently."""


class RunFolder:
    """A folder that holds a run. `start` creates one, `open` finds one."""

    def __init__(self, path: Path, fingerprint: Mapping[str, Any], display: Mapping[str, Any]) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.display = display
        """What tables need beside the fingerprint, see `fingerprint.display_settings`."""

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The run in the folder. Raises RunError if there is none."""
        if not (path / RUN).is_file():
            raise RunError(f"{path} holds no run: it has no {RUN}. Start one with noiser run ... --out {path}")
        run = read_created(path / RUN, run_problem)
        return cls(path, run["identity"], run["shown"])

    @classmethod
    def start(cls, path: Path, fingerprint: Mapping[str, Any], display: Mapping[str, Any]) -> "RunFolder":
        """The run with exactly this fingerprint. Creates it if the folder is new or empty.

        Raises RunError if the folder holds another run, with the differences, or if it holds something else.
        """
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file: give --out a folder")
        if not (path / RUN).exists() and path.is_dir() and any(path.iterdir()) and not _has_only_run_files(path):
            raise RunError(f"{path} is not empty and holds no run: give --out a new folder, so that nothing in it is lost")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {path}: {error.strerror}") from error
        run = create_once(path / RUN, {"schema": 1, "identity": dict(fingerprint), "shown": dict(display)})
        changed = list(differences(run.get("identity"), fingerprint))
        if changed:
            raise RunError(
                f"{path} holds another run. The differences, there and now:\n  "
                + "\n  ".join(changed)
                + "\nStart it as before to continue it, or give another --out"
                + ("; a dtype of auto depends on the device: give --dtype" if any(".dtype: " in line for line in changed) else "")
            )
        return cls(path, fingerprint, display)

    @property
    def records(self) -> Path:
        """The folder of the workers' files."""
        return self.path / RECORDS

    def screening(self, model: str, data: str) -> Path:
        """The file that says which prompts of this data set the model answers."""
        name = "--".join(map(slug, (model, data)))
        return self.path / SCREENED / f"{name[:80]}-{stable_hash(model, data)[:8]}.json"

    def screened_rows(self, model: str, data: str) -> list[dict[str, Any]] | None:
        """The rows of a data set with the model's answers; None if they are not screened yet. Raises RunError if they are damaged."""
        path = self.screening(model, data)
        return read_created(path, screening_problem)["rows"] if path.exists() else None

    def quarantine(self, damage: Damage) -> None:
        """Keep a copy of a damaged line, so that nothing is lost."""
        folder = self.path / QUARANTINE
        folder.mkdir(exist_ok=True)
        write_file(folder / f"{damage.file}.{damage.line}", damage.raw)


def _has_only_run_files(path: Path) -> bool:
    """True if a start was killed here, or if a damaged run.json was moved away."""
    return all(entry.name.startswith(f".{RUN}.") or entry.name in (RECORDS, SCREENED, QUARANTINE) for entry in path.iterdir())


def _file_sizes(folders: Sequence[RunFolder]) -> list[tuple[str, int]]:
    """The workers' files and their sizes. Equal sizes mean equal content, because files are only appended to."""
    return [(str(path), path.stat().st_size) for folder in folders for path in sorted(folder.records.glob("*.jsonl"))]


class RecordIndex:
    """The records of one or more folders: each trial once, whatever the order and number of the files.

    Args:
        folders: the folders to read.
        whole: False keeps only status and value of each record. That is enough to continue a run.
        without: fields to drop.
        digest: called with each record before fields are dropped; it may keep parts of them in another field.
    """

    def __init__(
        self,
        *folders: RunFolder,
        whole: bool = True,
        without: Sequence[str] = (),
        digest: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        """By their keys."""
        self.damaged: list[Damage] = []
        self.files: dict[str, int] = {}
        """How many records each file holds."""
        self._whole, self._without, self._folders, self._digest = whole, without, folders, digest
        self._sizes = _file_sizes(folders)
        self._copies: dict[str, list[dict[str, Any]]] = {}
        self._last_seen: dict[str, str] = {}
        for file, line, record in (entry for folder in folders for entry in scan(folder.records, record_problem)):
            if isinstance(record, Damage):
                self.damaged.append(record)
                continue
            self.files[file] = self.files.get(file, 0) + 1
            self._add(record, f"{file}, line {line}")
        self.records |= {key: _choose(copies, self._last_seen[key]) for key, copies in self._copies.items()}

    @property
    def is_current(self) -> bool:
        """True if nothing was written since the folders were read."""
        return self._sizes == _file_sizes(self._folders)

    def find(self, key: str, kind: str) -> dict[str, Any] | None:
        """The record of this kind under this key; None if it is missing."""
        record = self.records.get(key)
        return record if record is not None and record["kind"] == kind else None

    def _add(self, record: dict[str, Any], where: str) -> None:
        if self._digest is not None:
            self._digest(record)
        for field in self._without:
            record.pop(field, None)
        key = record["key"]
        kept = record if self._whole else {field: record.get(field) for field in ("key", "kind", "status", "value", "sample")}
        if key in self.records:
            self._copies.setdefault(key, [self.records[key]]).append(kept)
            self._last_seen[key] = where
        else:
            self.records[key] = kept


def _choose(copies: Sequence[dict[str, Any]], where: str) -> dict[str, Any]:
    """The record that counts, in whatever order the copies of one trial came.

    A record that did not fail comes before one that failed: the trial was run again, or by another worker. Raises RunError if two
    records that did not fail contradict each other.
    """
    good = sorted((record for record in copies if not is_failure(record["status"])), key=_sort_key)
    for one, other in combinations(good, 2):
        same = all(one[field] == other[field] for field in ("kind", "status"))
        if not same or not all(_agree(one.get(field), other.get(field)) for field in ("value", "scores")):
            results = " and ".join(f"{record['status']} {record.get('value') or ''}".strip() for record in (one, other))
            trial = ", ".join(str(one.get(field)) for field in ("sample", "method", "metric") if one.get(field))
            raise RunError(
                f"{where}: a record of {trial} contradicts an earlier one: {results}. Two machines computed different numbers; "
                "move one of their files away"
            )
    return good[0] if good else min(copies, key=_sort_key)


def is_failure(status: str) -> bool:
    """True if a trial went wrong; False if it is ok, undefined, skipped or missing."""
    return status.split("(")[0] in FAILED


def _sort_key(record: Mapping[str, Any]) -> str:
    return repr(sorted(record.items()))


def _agree(one: Any, other: Any) -> bool:
    """True if two numbers, or two tables of numbers, differ only by rounding."""
    if one is None or other is None:
        return one is other
    if np.shape(one) != np.shape(other):
        return False
    largest = max(float(np.max(np.abs([one, other]), initial=0.0)), FLOOR if np.ndim(one) == 0 else 1e-3)
    return bool(np.max(np.abs(np.subtract(one, other)), initial=0.0) <= TOLERANCE * largest)
