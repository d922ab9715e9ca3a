"""From records to tables: means, ratios to random, intervals, rank groups and remarks."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from noiser.results.records import MethodRow, MetricColumn, Number, Record, Row, Summary
from noiser.results.statistics import MIN_CLUSTERS, ClusterJackknife, holm, rank_groups

FAITHFULNESS = "faithfulness"
REFERENCE = "random"
"""The row in the denominator of log-ratios."""
LEVEL = 0.05
FEW = 10
"""With fewer clusters, a remark says that the intervals are rough."""
Statistic = Callable[[Float[np.ndarray, "*shape columns"]], Float[np.ndarray, "*shape rows"]]
"""From the means of a table's columns to the number that its rows are ranked by."""


def summarise(records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn]) -> tuple[Summary, ...]:
    """A table for each metric; where Soft-NS and Soft-NC were measured alike, the sum of their log-ratios as another."""
    tables: list[Summary | None] = []
    for place, column in enumerate(metric_columns):
        tables.append(_table(records, method_rows, [column], column.label))
        for other in metric_columns[:place]:
            pair = sorted((column, other), key=lambda each: each.metric, reverse=True)
            if [each.metric for each in pair] == ["soft_ns", "soft_nc"] and column.options == other.options:
                tables.append(_table(records, method_rows, pair, pair[0].label.replace("soft_ns", FAITHFULNESS, 1)))
    return tuple(table for table in tables if table is not None)


@dataclass(frozen=True, eq=False)
class CommonSamples:
    """The numbers of one table: the samples for which every row has a value."""

    rows: list[MethodRow]
    """The rows with at least one value."""
    samples: list[str]
    """Their names."""
    values: Float[np.ndarray, "samples rows metric_columns"]
    clusters: list[str]
    remarks: list[str]
    """Which rows lack which samples, in words."""


def _table(
    records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn], label: str
) -> Summary | None:
    """The table of one metric, or of Soft-NS and Soft-NC together: only their log-ratios can be added."""
    found = common_samples(records, method_rows, [column.label for column in metric_columns])
    better, statuses = metric_columns[0].better, statuses_by_row(records, [column.label for column in metric_columns])
    reference = next((place for place, row in enumerate(found.rows) if row.label == REFERENCE), None)
    if len(metric_columns) > 1 and reference is None:
        return None
    if not found.values.size:
        return Summary(label, better, tuple(_empty(each, statuses) for each in method_rows), 0, 0, (), tuple(found.remarks))
    jackknife = ClusterJackknife(found.clusters)
    means = found.values.mean(0), jackknife.means(found.values)
    ratios = [log_ratio(each, reference) for each in means] if metric_columns[0].relative and reference is not None else None
    plain = [each[..., 0] for each in means] if len(metric_columns) == 1 else None
    ranked = plain or ratios
    assert ranked is not None
    comparing = RowComparison(found.rows, jackknife, ranked[0], ranked[1], 1.0 if better == "higher" else -1.0)
    letters, differences = comparing.groups()

    limits = (0.0 if metric_columns[0].relative else -np.inf, np.inf)

    def row(place: int) -> Row:
        own = found.rows[place]
        mean = number(jackknife, float(plain[0][place]), plain[1][:, place], limits) if plain else Number(None)
        ratio = number(jackknife, float(ratios[0][place]), ratios[1][:, place]) if ratios else None
        return Row(own.label, own.control, mean, ratio, letters.get(place, ""), statuses[own.label])

    rows = [row(place) for place in comparing.order()] + [_empty(each, statuses) for each in method_rows if each not in found.rows]
    rows.sort(key=lambda row: row.control)
    remarks = (*comparing.remarks(), *found.remarks, *few_clusters(jackknife))
    return Summary(label, better, tuple(rows), len(found.values), jackknife.clusters, tuple(differences), remarks)


def few_clusters(jackknife: ClusterJackknife) -> list[str]:
    """A remark if there are too few clusters for intervals, or for good ones."""
    if jackknife.clusters < MIN_CLUSTERS:
        name = "cluster" if jackknife.clusters == 1 else "clusters"
        return [f"{jackknife.clusters} {name}: too few for an interval; at least {MIN_CLUSTERS} are needed"]
    return [f"only {jackknife.clusters} clusters: the intervals are rough"] if jackknife.clusters < FEW else []


def _empty(row: MethodRow, statuses: Mapping[str, dict[str, int]]) -> Row:
    return Row(row.label, row.control, Number(None), None, "", statuses.get(row.label, {}))


def common_samples(records: Sequence[Record], method_rows: Sequence[MethodRow], labels: Sequence[str]) -> CommonSamples:
    """The values that all rows have in common: rows without any value are left out, then samples that lack a value in any row.

    A refusal of a judge, and a reply without an answer, have values too.
    """
    clusters = {each.sample: f"group {each.group}" if each.group is not None else f"sample {each.sample}" for each in records}
    value = {(each.sample, each.method, each.metric): each.value for each in records if each.value is not None}
    samples = list(clusters)
    cells = np.array(
        [[[value.get((sample, row.label, label), np.nan) for label in labels] for row in method_rows] for sample in samples],
        dtype=np.float64,
    ).reshape(len(samples), len(method_rows), len(labels))
    there = np.atleast_2d(np.isfinite(cells).all(-1))
    having = np.atleast_1d(there.any(0))
    full = np.atleast_1d(there[:, having].all(1))
    remarks = [f"{row.label} has no value at all" for row, has in zip(method_rows, having, strict=True) if not has]
    for row, own in zip(method_rows, there.T, strict=True):
        lacking = int((~own).sum())
        if own.any() and lacking:
            remarks.append(f"{row.label} lacks {lacking} of {len(samples)} samples")
    if not full.all():
        remarks.append(f"all rows are compared on the {int(full.sum())} samples that each of them has")
    rows = [row for row, has in zip(method_rows, having, strict=True) if has]
    kept = [sample for sample, whole in zip(samples, full, strict=True) if whole]
    return CommonSamples(rows, kept, cells[full][:, having], [clusters[sample] for sample in kept], remarks)


def statuses_by_row(records: Sequence[Record], labels: Sequence[str]) -> Mapping[str, dict[str, int]]:
    """For each row, how many records of these metrics have each status."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        if record.metric in labels:
            counts.setdefault(record.method, Counter())[record.status] += 1
    return {method: dict(count) for method, count in counts.items()}


def log_ratio(means: Float[np.ndarray, "*shape rows metric_columns"], reference: int | None) -> Float[np.ndarray, "*shape rows"]:
    """log(mean / mean of random), summed over the metric_columns; NaN or infinite where a mean is not positive."""
    assert reference is not None
    with np.errstate(all="ignore"):  # the logarithm of 0 gives a missing number
        return (np.log(means) - np.log(means[..., [reference], :])).sum(-1)


def number(
    jackknife: ClusterJackknife, estimate: float, left_out: Float[np.ndarray, " clusters"], limits: tuple[float, float] = (-np.inf, np.inf)
) -> Number:
    """An estimate with its interval, which ends at the limits of what the quantity can be. Empty if the estimate is not finite."""
    if not np.isfinite(estimate):
        return Number(None)
    low, high = jackknife.interval(estimate, left_out)
    if np.isnan(low):
        return Number(float(estimate))
    return Number(float(estimate), max(float(low), limits[0]), min(float(high), limits[1]))


class RowComparison:
    """Rows against each other, each two on the same samples."""

    def __init__(
        self,
        rows: Sequence[MethodRow],
        jackknife: ClusterJackknife,
        whole: Float[np.ndarray, " rows"],
        left_out: Float[np.ndarray, "clusters rows"],
        sign: float,
    ) -> None:
        self.rows, self.jackknife = rows, jackknife
        self.whole, self.left_out = sign * whole, sign * left_out
        self.sign = sign
        self.methods = [place for place, row in enumerate(rows) if not row.control]
        self.controls = [place for place, row in enumerate(rows) if row.control]

    def order(self) -> list[int]:
        """The methods, best first, and then the controls."""
        best = np.nan_to_num(self.whole, nan=-np.inf)
        return [place for part in (self.methods, self.controls) for place in sorted(part, key=lambda place: -best[place])]

    def test(self, pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """For each pair how much better the first row is, with its interval, and p after Holm's correction over all pairs."""
        found = []
        for one, other in pairs:
            with np.errstate(invalid="ignore"):
                difference, left_out = self.whole[one] - self.whole[other], self.left_out[:, one] - self.left_out[:, other]
            p = float(self.jackknife.p_value(difference, left_out))
            shown = number(self.jackknife, self.sign * float(difference), self.sign * left_out)
            better = bool(difference > 0)
            methods = {"method": self.rows[one].label, "other": self.rows[other].label}
            found.append({**methods, **shown.to_dict(), "p": None if np.isnan(p) else p, "better": better})
        tested = [place for place, each in enumerate(found) if each["p"] is not None]
        adjusted = dict(zip(tested, holm([found[place]["p"] for place in tested]), strict=True))
        return [{**each, "p_holm": adjusted.get(place)} for place, each in enumerate(found)]

    def groups(self) -> tuple[dict[int, str], list[dict[str, Any]]]:
        """Letters for the methods, and their differences."""
        methods = [place for place in self.order() if place in self.methods]
        pairs = list(combinations(range(len(methods)), 2))
        tests = self.test([(methods[one], methods[other]) for one, other in pairs])
        differ = np.zeros((len(methods), len(methods)), dtype=bool)
        for (one, other), each in zip(pairs, tests, strict=True):
            differ[one, other] = differ[other, one] = each["p_holm"] is not None and each["p_holm"] < LEVEL
        return dict(zip(methods, rank_groups(differ), strict=True)), tests

    def remarks(self) -> list[str]:
        """Which controls beat which methods, and which methods cannot be told from random."""
        tests = self.test([(control, method) for control in self.controls for method in self.methods])
        sentences = []
        for control in self.controls:
            own = [each for each in tests if each["method"] == self.rows[control].label]
            beaten = [each["other"] for each in own if each["better"] and each["p_holm"] is not None and each["p_holm"] < LEVEL]
            if beaten:
                every = " every method:" if len(beaten) == len(own) and len(own) > 1 else ""
                sentences.append(f"the control {self.rows[control].label} beats{every} {', '.join(beaten)}")
            if self.rows[control].label == REFERENCE:
                alike = [each["other"] for each in own if each["p_holm"] is not None and each["p_holm"] >= LEVEL]
                sentences += [f"not told apart from {REFERENCE}: {', '.join(alike)}"] if alike else []
        return sentences
