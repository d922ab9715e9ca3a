"""Folders of one run, filled on different machines, into one."""

from collections.abc import Sequence
from pathlib import Path

from noiser.errors import RunError
from noiser.experiments.fingerprint import differences
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.run import Outcome, outcome
from noiser.experiments.trials import Work
from noiser.storage import Writer, create_once, read_created

AT_ONCE = 500
"""Records between two flushes."""


def merge(paths: Sequence[Path], out: Path) -> Outcome:
    """Write every trial's record once into the folder `out`, which is new or of the same run, and say how it stands.

    The sources stay as they are; their damaged lines are named and kept in `out`'s quarantine. Raises RunError where they are of
    different runs, where two of them say different things of a trial or screened a data set differently, and for records of no
    trial of the run.
    """
    folders = [RunFolder.open(path) for path in paths]
    first = folders[0]
    for other in folders[1:]:
        changed = list(differences(first.identity, other.identity))
        if changed:
            raise RunError(f"{other.path} is of another run than {first.path}:\n  " + "\n  ".join(changed))
    into = RunFolder.start(out, first.identity, first.shown)
    _screened(folders, into)
    work, found = Work(into), RecordIndex(*folders, into)
    unscreened = [f"{part.model} on {part.data}" for part in work.parts if part.rows is None]
    if unscreened and found.records:
        raise RunError(f"none of the folders says which prompts were kept of {', '.join(unscreened)}: their screened/ is missing")
    wanted = {key for sample in work.samples() for key in sample.record_keys()}
    strangers = found.records.keys() - wanted
    if strangers:
        raise RunError(f"{len(strangers):,} records are of no trial of this run; noiser status names the folder that has them")
    there = RecordIndex(into, whole=False).records
    writer = Writer(into.records, "merged")
    missing = [record for key, record in sorted(found.records.items()) if key not in there or there[key]["status"] != record["status"]]
    for start in range(0, len(missing), AT_ONCE):
        writer.write(missing[start : start + AT_ONCE])
    writer.close()
    for damage in found.damaged:
        into.quarantine(damage)
    stands = outcome(into)
    return Outcome(**{**vars(stands), "damaged": [*stands.damaged, *map(str, found.damaged)]})


def _screened(folders: Sequence[RunFolder], into: RunFolder) -> None:
    """Which prompts were kept: the same in all folders that have looked."""
    for model in into.identity["models"]:
        for data in into.identity["data"]:
            for folder in folders:
                path = folder.screened(model, data)
                if not path.exists():
                    continue
                own = read_created(path)
                there = create_once(into.screened(model, data), own)
                if [(row["id"], row.get("hash")) for row in own["rows"]] != [(row["id"], row.get("hash")) for row in there["rows"]]:
                    raise RunError(f"{folder.path} and another folder disagree on which prompts of {data} {model} answers")
