"""Merge folders of one run, filled on different machines, into one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from noiser.errors import RunError
from noiser.experiments.fingerprint import differences
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.schema import screening_problem
from noiser.experiments.status import RunStatus, run_status
from noiser.experiments.trials import RunContents
from noiser.storage import Writer, create_once, read_created

RECORDS_PER_FLUSH = 500


def merge(paths: Sequence[Path], out: Path) -> RunStatus:
    """Write each trial's record once into the folder `out`, which is new or holds the same run. Returns the state of the run.

    The sources stay as they are. Their damaged lines are named, and copied to the quarantine of `out`. Raises RunError for folders of
    different runs, for contradicting records or screenings, and for records of no trial of the run.
    """
    sources = [RunFolder.open(path) for path in paths]
    first = sources[0]
    for other in sources[1:]:
        changed = list(differences(first.fingerprint, other.fingerprint))
        if changed:
            raise RunError(f"{other.path} is of another run than {first.path}:\n  " + "\n  ".join(changed))
    target = RunFolder.start(out, first.fingerprint, first.display)
    _merge_screenings(sources, target)
    index = RecordIndex(*sources, target)
    _check_known(RunContents(target), index)
    _write_missing(index.records, target)
    for damage in index.damaged:
        target.quarantine(damage)
    status = run_status(target)
    return replace(status, damaged=[*status.damaged, *map(str, index.damaged)])


def _merge_screenings(sources: Sequence[RunFolder], target: RunFolder) -> None:
    """Copy the screenings. Raises RunError if two folders screened a data set differently."""
    for model in target.fingerprint["models"]:
        for data in target.fingerprint["data"]:
            for source in sources:
                path = source.screening(model, data)
                if not path.exists():
                    continue
                screening = read_created(path, screening_problem)
                create_once(target.screening(model, data), screening)
                if _kept_rows(screening["rows"]) != _kept_rows(target.screened_rows(model, data) or []):
                    raise RunError(f"{source.path} and another folder disagree on which prompts of {data} {model} answers")


def _kept_rows(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [(row["id"], row.get("hash")) for row in rows]


def _check_known(contents: RunContents, index: RecordIndex) -> None:
    """Raise RunError if the records belong to prompts or trials that the run does not have."""
    unscreened = [f"{cell.model} on {cell.data}" for cell in contents.cells if cell.rows is None]
    if unscreened and index.records:
        raise RunError(f"no folder says which prompts of {', '.join(unscreened)} were kept: their screened/ is missing")
    unknown = index.records.keys() - {key for sample in contents.samples() for key in sample.record_kinds()}
    if unknown:
        raise RunError(f"{len(unknown):,} records are of no trial of this run; noiser status names the folder that has them")


def _write_missing(records: dict[str, dict[str, Any]], target: RunFolder) -> None:
    present = RecordIndex(target, whole=False).records
    missing = [record for key, record in sorted(records.items()) if key not in present or present[key]["status"] != record["status"]]
    writer = Writer(target.records, "merged")
    for start in range(0, len(missing), RECORDS_PER_FLUSH):
        writer.write(missing[start : start + RECORDS_PER_FLUSH])
    writer.close()
