"""A run's folder: what it is of, which prompts were kept, and what became of every trial. A pure function of its files."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from noiser.errors import RunError
from noiser.experiments.fingerprint import differences, key
from noiser.storage import Damage, create_once, read_created, scan, write_file

RUN, RECORDS, SCREENED, QUARANTINE = "run.json", "records", "screened", "quarantine"
OK = "ok"
FAILED = ("error", "timeout", "oom", "nonfinite")
AGREE, SMALL = 1e-3, 0.1
"""By how much of the larger, or of SMALL, two numbers of one trial may differ: other machines round differently."""


class RunFolder:
    """A folder that holds a run, begun by `start` or found by `open`."""

    def __init__(self, path: Path, written: Mapping[str, Any]) -> None:
        self.path = path
        self.identity: Mapping[str, Any] = written["identity"]
        self.shown: Mapping[str, Any] = written["shown"]

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Raises RunError where the folder holds no run."""
        if not (path / RUN).is_file():
            raise RunError(f"{path} holds no run: there is no {RUN} in it. noiser run ... --out {path} begins one")
        return cls(path, read_created(path / RUN))

    @classmethod
    def start(cls, path: Path, identity: Mapping[str, Any], shown: Mapping[str, Any]) -> "RunFolder":
        """The run of exactly this identity, begun where the folder is new or empty.

        Raises RunError with what differs where the folder holds another run, and where it holds something else.
        """
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file: give --out a folder")
        if not (path / RUN).exists() and path.is_dir() and any(path.iterdir()) and not _only_begun(path):
            raise RunError(f"{path} is not empty and holds no run: give --out a new folder, so that nothing in it is lost")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {path}: {error.strerror}") from error
        there = create_once(path / RUN, {"schema": 1, "identity": dict(identity), "shown": dict(shown)})
        changed = list(differences(there["identity"], identity))
        if changed:
            raise RunError(
                f"{path} holds another run. What differs, there and now:\n  "
                + "\n  ".join(changed)
                + "\nStart it as before to go on, or give another --out"
                + ("; a dtype that is auto depends on the device: say --dtype" if any(".dtype: " in each for each in changed) else "")
            )
        return cls(path, there)

    @property
    def records(self) -> Path:
        """Where the workers' files are."""
        return self.path / RECORDS

    def screened(self, model: str, data: str) -> Path:
        """Where it is kept which prompts of this data set the model answers."""
        said = "--".join(re.sub(r"[^A-Za-z0-9._-]+", "-", each).strip(".-") for each in (model, data))
        return self.path / SCREENED / f"{said[:80]}-{key(model, data)[:8]}.json"

    def quarantine(self, damage: Damage) -> None:
        """Keep a copy of a damaged line, so that nothing is lost whatever becomes of its file."""
        folder = self.path / QUARANTINE
        folder.mkdir(exist_ok=True)
        write_file(folder / f"{damage.file}.{damage.line}", damage.raw)


def _only_begun(path: Path) -> bool:
    """Whether nothing is there but what a run has: a beginning that was killed, or a run whose damaged run.json was moved away."""
    return all(each.name.startswith(f".{RUN}.") or each.name in (RECORDS, SCREENED, QUARANTINE) for each in path.iterdir())


def files(folders: Sequence["RunFolder"]) -> list[tuple[str, int]]:
    """The workers' files and their sizes: where these are the same, so is what they say, for they are only ever appended to."""
    return [(str(path), path.stat().st_size) for folder in folders for path in sorted(folder.records.glob("*.jsonl"))]


class RecordIndex:
    """What the records of one or more folders say, each trial once, whatever the order and number of the files.

    `whole=False` keeps of each record its status and value only, which is all that going on needs; `without` leaves fields out,
    after `digest` was called with the record, which may put what it needs of them into another field.
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
        self._files = files(folders)
        self._copies: dict[str, list[dict[str, Any]]] = {}
        self._places: dict[str, str] = {}
        for file, line, record in (each for folder in folders for each in scan(folder.records)):
            if not isinstance(record, Damage) and not {"key", "status"} <= record.keys():
                record = Damage(file, line, "it is no record of a run", b"")
            if isinstance(record, Damage):
                self.damaged.append(record)
                continue
            self.files[file] = self.files.get(file, 0) + 1
            self._add(record, f"{file}, line {line}")
        self.records |= {name: _one_of(copies, self._places[name]) for name, copies in self._copies.items()}

    @property
    def fresh(self) -> bool:
        """Whether nothing was written since it was read."""
        return self._files == files(self._folders)

    def _add(self, record: dict[str, Any], where: str) -> None:
        if self._digest is not None:
            self._digest(record)
        for field in self._without:
            record.pop(field, None)
        name = record["key"]
        kept = record if self._whole else {field: record.get(field) for field in ("key", "kind", "status", "value", "sample")}
        if name in self.records:
            self._copies.setdefault(name, [self.records[name]]).append(kept)
            self._places[name] = where
        else:
            self.records[name] = kept


def _one_of(copies: Sequence[dict[str, Any]], where: str) -> dict[str, Any]:
    """Of the records of one trial the one that counts, whichever came first. One that did not fail counts before one that did:
    it was run again, or by another worker. Raises RunError where two that did not fail say different things."""
    good = sorted((each for each in copies if not failed(each["status"])), key=_order)
    for one, other in combinations(good, 2):
        if one["status"] != other["status"] or not all(_agree(one.get(field), other.get(field)) for field in ("value", "scores")):
            said = " and ".join(f"{each['status']} {each.get('value') or ''}".strip() for each in (one, other))
            named = ", ".join(str(one.get(field)) for field in ("sample", "method", "metric") if one.get(field))
            raise RunError(
                f"{where}: a record of {named} contradicts an earlier one: {said}. Two machines computed different things; move one of "
                "their files away"
            )
    return good[0] if good else min(copies, key=_order)


def failed(status: str) -> bool:
    """Whether a trial went wrong, as opposed to being undefined or skipped."""
    return status.split("(")[0] in FAILED


def _order(record: Mapping[str, Any]) -> str:
    return repr(sorted(record.items()))


def _agree(one: Any, other: Any) -> bool:
    """Whether two numbers, or two tables of them, are the same but for rounding."""
    if one is None or other is None:
        return one is other
    if np.shape(one) != np.shape(other):
        return False
    largest = max(float(np.max(np.abs([one, other]), initial=0.0)), SMALL if np.ndim(one) == 0 else 1e-3)
    return bool(np.max(np.abs(np.subtract(one, other)), initial=0.0) <= AGREE * largest)
