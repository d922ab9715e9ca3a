"""Where on a LongRA prompt the scores lie: the cue, the word `capital`, the rest of the main part, the distractor (figure 2)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from noiser.experiments.folder import RecordIndex
from noiser.experiments.trials import ATTRIBUTION, GridCell
from noiser.results.records import OK, Number
from noiser.results.statistics import ClusterBootstrap

PARTS = ("relative", "capital", "main part", "distractor")
CAPITAL = "capital"
Shares = dict[str, float]


def spans(text: str, relative: str) -> dict[str, list[tuple[int, int]]]:
    """Where the cue (the `relative` of the row), the word `capital` and the distractor in parentheses are, outside of each other."""
    distractor = [match.span() for match in re.finditer(r"\([^()]*\)", text)]

    def outside(word: str) -> list[tuple[int, int]]:
        found = (match.span() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text))
        return [span for span in found if not any(start <= span[0] < stop for start, stop in distractor)]

    return {"relative": outside(relative), CAPITAL: outside(CAPITAL), "distractor": distractor}


def shares(scores: Sequence[float], text: str, offsets: Sequence[Sequence[int]], relative: str) -> Shares | None:
    """The share of the positive scores that lies on each part; they add up to 1. A token that reaches over an edge is divided
    by its characters, leading spaces not counted; tokens without text (the beginning of the sequence) are left out. None where no
    score is positive."""
    where, found = spans(text, relative), dict.fromkeys(map(str, PARTS), 0.0)
    for own, (start, stop) in zip(np.asarray(scores, dtype=np.float64).clip(min=0), offsets, strict=False):
        begin = start + len(text[start:stop]) - len(text[start:stop].lstrip())
        places = range(begin, stop) if begin < stop else range(start, stop)
        for place in places:
            found[_part(where, place)] += float(own) / len(places)
    total = sum(found.values())
    return {part: mass / total for part, mass in found.items()} if total > 0 else None


def _part(where: Mapping[str, list[tuple[int, int]]], place: int) -> str:
    """The part that a character belongs to: the first that claims it."""
    return next((part for part, own in where.items() if any(first <= place < last for first, last in own)), "main part")


@dataclass(frozen=True)
class Mass:
    """Where one method's scores lie, on the mean of some samples."""

    parts: Mapping[str, Number]
    samples: int
    """That have a positive score."""


def by_type(part: GridCell, found: RecordIndex, seed: int) -> dict[str, dict[str, Mass]]:
    """For each type of row and each method the mean share on each part, with intervals; under `all` for all types together."""
    collected: dict[str, dict[str, list[tuple[str, Shares]]]] = {}
    for sample in part.samples:
        said = found.records.get(sample.key)
        if said is None or "offsets" not in said:
            continue
        relative = str(said["fields"].get("relative", ""))
        for trial in sample.trials:
            record = found.records.get(trial.key) if trial.kind == ATTRIBUTION else None
            if record is None or record["status"] != OK:
                continue
            own = shares(record["scores"][0], said["text"], said["offsets"], relative)
            for kind in (str(said["fields"].get("type", "")), "all") if own is not None else ():
                collected.setdefault(kind, {}).setdefault(trial.method, []).append((relative, own or {}))
    return {kind: {method: _means(own, seed) for method, own in methods.items()} for kind, methods in collected.items()}


def _means(own: Sequence[tuple[str, Mapping[str, float]]], seed: int) -> Mass:
    """Rows about the same thing (the same country) are drawn together."""
    values: Any = np.array([[each[part] for part in PARTS] for _, each in own])
    boot = ClusterBootstrap([relative for relative, _ in own], seed=seed)
    resampled = boot.means(values)
    numbers = (Number(float(values[:, place].mean()), *(boot.interval(resampled[:, place]) or (None, None))) for place in range(len(PARTS)))
    return Mass(dict(zip(PARTS, numbers, strict=True)), len(own))
