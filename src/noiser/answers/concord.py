"""Do several judges say the same?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from noiser.answers.rates import METRIC, share
from noiser.evidence import Contender, Gauge, Number, Record
from noiser.judging import FORMS
from noiser.stats import ClusterBootstrap

Verdicts = list[tuple[float, float]]


@dataclass(frozen=True)
class Agreement:
    """Two judges on the same words of the same prompts."""

    metric: str
    other: str
    """The two metrics' labels."""
    judges: tuple[str, str]
    form: str
    cells: int
    """Samples times methods and controls that both judges have a verdict on."""
    samples: int
    equal: Number
    """The share of the cells with equal verdicts, in [0, 1], with its interval by cluster bootstrap over samples."""
    kappa: float | None
    """Cohen's: by how much they agree more than by chance, 1 at most; None where both always say the same thing, or there is
    nothing to compare."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {**vars(self), "judges": list(self.judges), "equal": self.equal.to_dict()}


def judge_agreements(
    records: Sequence[Record], contenders: Sequence[Contender], gauges: Sequence[Gauge], seed: int = 0
) -> tuple[Agreement, ...]:
    """For each two judges that were asked alike, and each form."""
    known = {each.label for each in contenders}
    found = []
    for one, other in combinations([each for each in gauges if each.metric == METRIC], 2):
        if one.options == other.options and one.judge != other.judge:
            asked = str(one.options.get("forms", "")).split(",")
            found += [_agreement(records, known, (one, other), form, seed) for form in FORMS if form in asked]
    return tuple(found)


def _agreement(records: Sequence[Record], known: set[str], pair: tuple[Gauge, Gauge], form: str, seed: int) -> Agreement:
    one, other = pair
    said = {
        (each.sample, each.method, each.metric): float(each.also[form])
        for each in records
        if each.value is not None and form in each.also and each.method in known
    }
    groups = {each.sample: f"group {each.group}" if each.group is not None else f"sample {each.sample}" for each in records}
    verdicts: dict[str, Verdicts] = {}
    for (sample, method, metric), verdict in said.items():
        if metric == one.label and (sample, method, other.label) in said:
            verdicts.setdefault(sample, []).append((verdict, said[sample, method, other.label]))
    cells = [each for own in verdicts.values() for each in own]
    about = (one.label, other.label, (one.judge, other.judge), form, len(cells), len(verdicts))
    return Agreement(*about, _equal(verdicts, groups, seed), kappa(cells))


def _equal(verdicts: Mapping[str, Verdicts], groups: Mapping[str, str], seed: int) -> Number:
    if not verdicts:
        return Number(None)
    equal = np.array([float(sum(one == other for one, other in own)) for own in verdicts.values()])
    cells = np.array([float(len(own)) for own in verdicts.values()])
    return share(ClusterBootstrap([groups[sample] for sample in verdicts], seed=seed), equal, cells)


def kappa(cells: Verdicts) -> float | None:
    """Cohen's kappa: (observed - expected) / (1 - expected) share of equal verdicts. None where that is 0 / 0, or of nothing.

    Source: Cohen 1960, doi:10.1177/001316446002000104.
    """
    if not cells:
        return None
    observed = sum(one == other for one, other in cells) / len(cells)
    kinds = {verdict for cell in cells for verdict in cell}
    expected = sum(sum(one == kind for one, _ in cells) * sum(other == kind for _, other in cells) for kind in kinds) / len(cells) ** 2
    return None if expected == 1 else (observed - expected) / (1 - expected)
