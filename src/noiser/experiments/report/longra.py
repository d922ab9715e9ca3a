"""Figure 2: where on a LongRA prompt the scores lie. The parts are the cue, the word `capital`, the main part and the distractor."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from noiser.experiments.folder import RecordIndex
from noiser.experiments.schema import ATTRIBUTION, OK, SAMPLE
from noiser.experiments.trials import GridCell
from noiser.results.records import Number
from noiser.results.statistics import ClusterJackknife
from noiser.results.tables import number

PARTS = ("relative", "capital", "main part", "distractor")
CAPITAL = "capital"
Shares = dict[str, float]
Spans = Mapping[str, list[tuple[int, int]]]


def spans(text: str, relative: str) -> Spans:
    """Character spans of the cue (the row's `relative`), of the word `capital`, and of the distractor in parentheses.

    Words inside the distractor do not count.
    """
    distractor = [match.span() for match in re.finditer(r"\([^()]*\)", text)]

    def outside(word: str) -> list[tuple[int, int]]:
        matches = (match.span() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text))
        return [span for span in matches if not any(start <= span[0] < stop for start, stop in distractor)]

    return {"relative": outside(relative), CAPITAL: outside(CAPITAL), "distractor": distractor}


def shares(scores: Sequence[float], text: str, offsets: Sequence[Sequence[int]], relative: str) -> Shares | None:
    """Each part's share of the positive scores; the shares add up to 1. None if no score is positive.

    A token that reaches over an edge is divided by its characters, leading spaces not counted. Tokens without text, such as the start
    of the sequence, are left out.
    """
    part_spans, masses = spans(text, relative), dict.fromkeys(map(str, PARTS), 0.0)
    for score, (start, stop) in zip(np.asarray(scores, dtype=np.float64).clip(min=0), offsets, strict=False):
        first_letter = start + len(text[start:stop]) - len(text[start:stop].lstrip())
        characters = range(first_letter, stop) if first_letter < stop else range(start, stop)
        for character in characters:
            masses[_part(part_spans, character)] += float(score) / len(characters)
    total = sum(masses.values())
    return {part: mass / total for part, mass in masses.items()} if total > 0 else None


def _part(part_spans: Spans, character: int) -> str:
    """The first part that has this character."""
    return next((part for part, areas in part_spans.items() if any(start <= character < stop for start, stop in areas)), "main part")


@dataclass(frozen=True)
class MeanShares:
    """Where one method's scores lie: the mean over some samples."""

    parts: Mapping[str, Number]
    samples: int
    """Samples with a positive score."""


def by_type(cell: GridCell, index: RecordIndex) -> dict[str, dict[str, MeanShares]]:
    """For each type of row, and each method, the mean share of each part with its interval. `all` has the rows of all types."""
    collected: dict[str, dict[str, list[tuple[str, Shares]]]] = {}
    for sample in cell.samples:
        description = index.find(sample.key, SAMPLE)
        if description is None or "offsets" not in description:
            continue
        relative, kind = (str(description["fields"].get(name, "")) for name in ("relative", "type"))
        for trial in sample.trials:
            record = index.find(trial.key, trial.kind) if trial.kind == ATTRIBUTION else None
            if record is None or record["status"] != OK:
                continue
            sample_shares = shares(record["scores"][0], description["text"], description["offsets"], relative)
            for name in (kind, "all") if sample_shares is not None else ():
                collected.setdefault(name, {}).setdefault(trial.method, []).append((relative, sample_shares or {}))
    return {kind: {method: _mean_shares(pairs) for method, pairs in methods.items()} for kind, methods in collected.items()}


def _mean_shares(pairs: Sequence[tuple[str, Mapping[str, float]]]) -> MeanShares:
    """The means over (relative, shares). Rows with the same relative, such as one country, are one cluster."""
    values: Any = np.array([[sample_shares[part] for part in PARTS] for _, sample_shares in pairs])
    jackknife = ClusterJackknife([relative for relative, _ in pairs])
    left_out = jackknife.means(values)
    numbers = (number(jackknife, float(values[:, column].mean()), left_out[:, column], (0.0, 1.0)) for column in range(len(PARTS)))
    return MeanShares(dict(zip(PARTS, numbers, strict=True)), len(pairs))
