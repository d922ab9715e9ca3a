"""Tables from records: means, ratios to random, intervals, rank groups and remarks."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
MASK_SHARE = 0.1
"""If the masks cause more than this share of the variance between samples, a remark says so."""
CHANCE = 0.5
"""How often a metric that measures nothing orders two neighbours of the ladder."""
FEW = 10
"""If there are fewer clusters, a remark says that the intervals are rough."""
Statistic = Callable[[Float[np.ndarray, "*shape columns"]], Float[np.ndarray, "*shape rows"]]
"""A function from the means of a table's columns to the number that ranks its rows."""


def summarise(records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn]) -> tuple[Summary, ...]:
    """One table for each metric, and one for the summed log-ratios of each pair of Soft-NS and Soft-NC with equal options."""
    tables: list[Summary | None] = []
    for index, column in enumerate(metric_columns):
        tables.append(_table(records, method_rows, [column], column.label))
        for other in metric_columns[:index]:
            pair = sorted((column, other), key=lambda paired: paired.metric, reverse=True)
            if [paired.metric for paired in pair] == ["soft_ns", "soft_nc"] and column.options == other.options:
                tables.append(_table(records, method_rows, pair, pair[0].label.replace("soft_ns", FAITHFULNESS, 1)))
    return with_operators([table for table in tables if table is not None], metric_columns)


def with_operators(tables: Sequence[Summary], metric_columns: Sequence[MetricColumn]) -> tuple[Summary, ...]:
    """The tables, with a remark where one metric with two operators says different things about two methods.

    A result that depends on what stands in the place of a token that is left out is a result about that.
    """
    columns = {column.label: column for column in metric_columns if "operator" in column.options}
    remarks: dict[str, list[str]] = {}
    for one, other in combinations([table for table in tables if table.metric in columns], 2):
        first, second = columns[one.metric], columns[other.metric]
        if first.metric == second.metric and first.options["operator"] != second.options["operator"]:
            remarks.setdefault(other.metric, []).extend(_disagreements(one, other))
    return tuple(replace(table, remarks=(*table.remarks, *remarks.get(table.metric, ()))) for table in tables)


def _disagreements(one: Summary, other: Summary) -> list[str]:
    """A sentence for each two methods that only one of the tables tells apart, or that the tables order differently."""
    found = {(test["method"], test["other"]): _verdict(test) for test in other.differences}
    sentences = []
    for test in one.differences:
        pair = test["method"], test["other"]
        swapped = pair not in found
        ours, theirs = _verdict(test), -found.get(pair[::-1], 0) if swapped else found[pair]
        if ours == theirs:
            continue
        if ours and theirs:
            sentences.append(f"contradicts {one.metric} on {pair[0]} and {pair[1]}: a verdict about the operator")
        else:
            table = one if ours else other
            sentences.append(f"{pair[0]} and {pair[1]} are told apart under {table.metric} only: a verdict that depends on the operator")
    return sentences


def _verdict(test: Mapping[str, Any]) -> int:
    """1 if the first method is better for certain, -1 if the other is, 0 if they are not told apart."""
    certain = test["p_holm"] is not None and test["p_holm"] < LEVEL
    return (1 if test["better"] else -1) if certain else 0


@dataclass(frozen=True, eq=False)
class CommonSamples:
    """The values of one table, on the samples for which every row has a value."""

    rows: list[MethodRow]
    """The rows with at least one value."""
    samples: list[str]
    """The names of the samples."""
    values: Float[np.ndarray, "samples rows metric_columns"]
    clusters: list[str]
    """The cluster of each sample."""
    remarks: list[str]
    """Sentences that say which rows lack samples."""


def _table(
    records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn], label: str
) -> Summary | None:
    """The table of one metric, or of the summed log-ratios of Soft-NS and Soft-NC. None if those have no random row."""
    common = common_samples(records, method_rows, [column.label for column in metric_columns])
    better, statuses = metric_columns[0].better, statuses_by_row(records, [column.label for column in metric_columns])
    reference = next((index for index, row in enumerate(common.rows) if row.label == REFERENCE), None)
    if len(metric_columns) > 1 and reference is None:
        return None
    if not common.values.size:
        return Summary(label, better, tuple(_empty_row(row, statuses) for row in method_rows), 0, 0, (), tuple(common.remarks))
    jackknife = ClusterJackknife(common.clusters)
    means = common.values.mean(0), jackknife.means(common.values)  # of all samples, and without each cluster
    ratios = [log_ratio(values, reference) for values in means] if metric_columns[0].relative and reference is not None else None
    plain = [values[..., 0] for values in means] if len(metric_columns) == 1 else None
    ranked = plain or ratios
    assert ranked is not None
    comparison = RowComparison(common.rows, jackknife, ranked[0], ranked[1], 1.0 if better == "higher" else -1.0)
    letters, differences = comparison.groups()

    limits = (0.0 if metric_columns[0].relative else -np.inf, np.inf)
    wins = win_rates(records, common, metric_columns[0].label) if len(metric_columns) == 1 else None

    def table_row(index: int) -> Row:
        row = common.rows[index]
        mean = number(jackknife, float(plain[0][index]), plain[1][:, index], limits) if plain else Number(None)
        ratio = number(jackknife, float(ratios[0][index]), ratios[1][:, index]) if ratios else None
        rate = None if wins is None else number(jackknife, float(wins[:, index].mean()), jackknife.means(wins)[:, index], (0.0, 1.0))
        return Row(row.label, row.control, mean, ratio, letters.get(index, ""), statuses[row.label], rate)

    rows = [table_row(index) for index in comparison.order()]
    rows += [_empty_row(row, statuses) for row in method_rows if row not in common.rows]
    rows.sort(key=lambda row: row.control)
    remarks = (*comparison.remarks(), *common.remarks, *few_clusters(jackknife), *mask_remarks(records, common, metric_columns))
    if len(metric_columns) == 1:
        ladder = ladder_remark(records, common, jackknife, label)
        remarks = (*(comparison.permuted_remark() if ladder is None else ladder), *remarks)
    return Summary(label, better, tuple(rows), len(common.values), jackknife.clusters, tuple(differences), remarks)


def win_rates(records: Sequence[Record], common: CommonSamples, label: str) -> Float[np.ndarray, "samples rows"] | None:
    """The share of random orders that each row beats on each sample. None if they were not run for all of them."""
    rates = {(each.sample, each.method): each.extra.get("win_rate") for each in records if each.metric == label}
    found = [[rates.get((sample, row.label)) for row in common.rows] for sample in common.samples]
    return None if any(rate is None for row in found for rate in row) else np.array(found, dtype=np.float64)


def ladder_remark(records: Sequence[Record], common: CommonSamples, jackknife: ClusterJackknife, label: str) -> list[str] | None:
    """A remark if the metric does not order the ladder on these samples: the same scores with more and more noise in them.

    None if there was no ladder.
    """
    found = {each.sample: (each.method, each.extra["ladder"]) for each in records if each.metric == label and "ladder" in each.extra}
    if not found.keys() >= set(common.samples):
        return None
    method, values = found[common.samples[0]][0], np.array([found[sample][1] for sample in common.samples])
    rate = number(jackknife, float(values.mean()), jackknife.means(values), (0.0, 1.0))
    if rate.low is None or rate.low > CHANCE:
        return []
    share = f"{rate.value:.2f} ({rate.low:.2f} to {rate.high:.2f}) of the steps from less to more noise in the scores of {method}"
    return [f"does not order its ladder on these data: right in {share}; chance is {CHANCE}"]


def few_clusters(jackknife: ClusterJackknife) -> list[str]:
    """A remark if there are too few clusters for an interval, or for a precise one."""
    if jackknife.clusters < MIN_CLUSTERS:
        name = "cluster" if jackknife.clusters == 1 else "clusters"
        return [f"{jackknife.clusters} {name}: too few for an interval; at least {MIN_CLUSTERS} are needed"]
    return [f"only {jackknife.clusters} clusters: the intervals are rough"] if jackknife.clusters < FEW else []


def mask_remarks(records: Sequence[Record], common: CommonSamples, metric_columns: Sequence[MetricColumn]) -> list[str]:
    """A remark if few random masks are a large part of what makes samples differ: the median of the methods' shares.

    The variance of a sample's mean over its masks is estimated from the differences of neighbouring masks, because under `matched`
    and `proportional` each mask has a budget of its own.
    """
    if len(metric_columns) != 1 or "masks" not in metric_columns[0].options or len(common.samples) < 2:
        return []
    shares = []
    for index, row in enumerate(common.rows):
        chosen = [record for record in records if (record.method, record.metric) == (row.label, metric_columns[0].label)]
        within = [_mask_variance(record) for record in chosen if record.sample in common.samples]
        between = float(common.values[:, index, 0].var(ddof=1))
        if not row.control and between > 0:
            shares.append(float(np.mean(within)) / between)
    share = float(np.median(shares)) if shares else 0.0
    masks = metric_columns[0].options["masks"]
    if share <= MASK_SHARE:
        return []
    return [f"{min(share, 1.0):.0%} of the variance between samples comes from the {masks} random masks: more masks narrow the intervals"]


def _mask_variance(record: Record) -> float:
    """The variance of a record's value that comes from its masks, mean over the masks and over the explained tokens."""
    variances = []
    for step in record.steps:
        values = np.array(step.get("masks", ()), dtype=np.float64)
        variances.append(float((np.diff(values) ** 2).sum() / (2 * (len(values) - 1)) / len(values)) if len(values) > 1 else 0.0)
    return float(np.sum(variances)) / len(variances) ** 2 if variances else 0.0


def _empty_row(row: MethodRow, statuses: Mapping[str, dict[str, int]]) -> Row:
    return Row(row.label, row.control, Number(None), None, "", statuses.get(row.label, {}))


def common_samples(records: Sequence[Record], method_rows: Sequence[MethodRow], labels: Sequence[str]) -> CommonSamples:
    """The values that all rows have in common. It drops rows without any value, then samples for which a row lacks a value.

    A judge's refusal and a reply without an answer have values too.
    """
    clusters = {record.sample: f"group {record.group}" if record.group is not None else f"sample {record.sample}" for record in records}
    recorded = {(record.sample, record.method, record.metric): record.value for record in records if record.value is not None}
    samples = list(clusters)
    values = np.array(
        [[[recorded.get((sample, row.label, label), np.nan) for label in labels] for row in method_rows] for sample in samples],
        dtype=np.float64,
    ).reshape(len(samples), len(method_rows), len(labels))
    finite = np.atleast_2d(np.isfinite(values).all(-1))
    usable_rows = np.atleast_1d(finite.any(0))
    complete = np.atleast_1d(finite[:, usable_rows].all(1))
    remarks = [f"{row.label} has no value at all" for row, usable in zip(method_rows, usable_rows, strict=True) if not usable]
    for row, row_finite in zip(method_rows, finite.T, strict=True):
        lacking = int((~row_finite).sum())
        if row_finite.any() and lacking:
            remarks.append(f"{row.label} lacks {lacking} of {len(samples)} samples")
    if not complete.all():
        remarks.append(f"all rows are compared on the {int(complete.sum())} samples that each of them has")
    rows = [row for row, usable in zip(method_rows, usable_rows, strict=True) if usable]
    names = [sample for sample, is_complete in zip(samples, complete, strict=True) if is_complete]
    return CommonSamples(rows, names, values[complete][:, usable_rows], [clusters[sample] for sample in names], remarks)


def statuses_by_row(records: Sequence[Record], labels: Sequence[str]) -> Mapping[str, dict[str, int]]:
    """How many records of these metrics have each status, for each row."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        if record.metric in labels:
            counts.setdefault(record.method, Counter())[record.status] += 1
    return {method: dict(count) for method, count in counts.items()}


def log_ratio(means: Float[np.ndarray, "*shape rows metric_columns"], reference: int | None) -> Float[np.ndarray, "*shape rows"]:
    """log(mean / mean of random), summed over the columns. NaN or infinite if a mean is not positive."""
    assert reference is not None
    with np.errstate(all="ignore"):  # the logarithm of 0 gives a missing number
        return (np.log(means) - np.log(means[..., [reference], :])).sum(-1)


def number(
    jackknife: ClusterJackknife, estimate: float, left_out: Float[np.ndarray, " clusters"], limits: tuple[float, float] = (-np.inf, np.inf)
) -> Number:
    """An estimate with its interval. `limits` are the lowest and the highest possible value. Empty if the estimate is not finite."""
    if not np.isfinite(estimate):
        return Number(None)
    low, high = jackknife.interval(estimate, left_out)
    if np.isnan(low):
        return Number(float(estimate))
    return Number(float(estimate), max(float(low), limits[0]), min(float(high), limits[1]))


class RowComparison:
    """Paired tests between rows, all on the same samples."""

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
        self.methods = [index for index, row in enumerate(rows) if not row.control]
        self.controls = [index for index, row in enumerate(rows) if row.control]

    def order(self) -> list[int]:
        """The indices of the methods, then of the controls, each with the best first."""
        values = np.nan_to_num(self.whole, nan=-np.inf)
        return [index for indices in (self.methods, self.controls) for index in sorted(indices, key=lambda index: -values[index])]

    def test(self, pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """For each pair: the first row minus the second with its interval, and p after Holm's correction over all pairs."""
        tests = []
        for one, other in pairs:
            with np.errstate(invalid="ignore"):
                difference, left_out = self.whole[one] - self.whole[other], self.left_out[:, one] - self.left_out[:, other]
            p = float(self.jackknife.p_value(difference, left_out))
            interval = number(self.jackknife, self.sign * float(difference), self.sign * left_out)
            better = bool(difference > 0)
            methods = {"method": self.rows[one].label, "other": self.rows[other].label}
            tests.append({**methods, **interval.to_dict(), "p": None if np.isnan(p) else p, "better": better})
        indices = [index for index, test in enumerate(tests) if test["p"] is not None]
        adjusted = dict(zip(indices, holm([tests[index]["p"] for index in indices]), strict=True))
        return [{**test, "p_holm": adjusted.get(index)} for index, test in enumerate(tests)]

    def groups(self) -> tuple[dict[int, str], list[dict[str, Any]]]:
        """The letters of each method, and the test of each pair of methods."""
        methods = [index for index in self.order() if index in self.methods]
        pairs = list(combinations(range(len(methods)), 2))
        tests = self.test([(methods[one], methods[other]) for one, other in pairs])
        differ = np.zeros((len(methods), len(methods)), dtype=bool)
        for (one, other), test in zip(pairs, tests, strict=True):
            differ[one, other] = differ[other, one] = test["p_holm"] is not None and test["p_holm"] < LEVEL
        return dict(zip(methods, rank_groups(differ), strict=True)), tests

    def remarks(self) -> list[str]:
        """Sentences that name the methods a control beats, and the methods that do not differ from random."""
        tests = self.test([(control, method) for control in self.controls for method in self.methods])
        sentences = []
        for control in self.controls:
            control_tests = [test for test in tests if test["method"] == self.rows[control].label]
            beaten = [test["other"] for test in control_tests if test["better"] and test["p_holm"] is not None and test["p_holm"] < LEVEL]
            if beaten:
                every = " every method:" if len(beaten) == len(control_tests) > 1 else ""
                sentences.append(f"the control {self.rows[control].label} beats{every} {', '.join(beaten)}")
            if self.rows[control].label == REFERENCE:
                alike = [test["other"] for test in control_tests if test["p_holm"] is not None and test["p_holm"] >= LEVEL]
                sentences += [f"not told apart from {REFERENCE}: {', '.join(alike)}"] if alike else []
        return sentences

    def permuted_remark(self) -> list[str]:
        """A sentence that names the methods whose own scores in a random order do no worse. It is the ladder's two ends."""
        labels = [row.label for row in self.rows]
        permuted = [(label.removeprefix("permuted:"), index) for index, label in enumerate(labels) if label.startswith("permuted:")]
        pairs = [(labels.index(method), index) for method, index in permuted if method in labels]  # a method may have no value
        alike = [test["method"] for test in self.test(pairs) if test["p_holm"] is not None and test["p_holm"] >= LEVEL]
        return [f"not told apart from the same scores in a random order: {', '.join(alike)}"] if alike else []
