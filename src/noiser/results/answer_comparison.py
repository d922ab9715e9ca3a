"""Comparisons of answerability: agreement between judges, the fewest words that suffice, correlation with faithfulness."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from noiser.results.answerability import FORMS, METRIC, SHARE, share
from noiser.results.records import MethodRow, MetricColumn, Number, Record
from noiser.results.scores import rank_correlations
from noiser.results.statistics import ClusterBootstrap, ClusterJackknife
from noiser.results.tables import FAITHFULNESS, REFERENCE, common_samples, few_clusters, log_ratio, number

Verdicts = list[tuple[float, float]]


@dataclass(frozen=True)
class Agreement:
    """How often two judges agree on the same words of the same prompts."""

    metric: str
    other: str
    """The labels of the two metrics."""
    judges: tuple[str, str]
    form: str
    cells: int
    """The number of (sample, row) pairs with a verdict of each judge."""
    samples: int
    equal: Number
    """The share of the cells with equal verdicts, in [0, 1], with its interval by jackknife over clusters."""
    kappa: float | None
    """Cohen's kappa: agreement beyond chance, 1 at most. None if there are no verdicts, or if all verdicts are equal."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {**vars(self), "judges": list(self.judges), "equal": self.equal.to_dict()}


def judge_agreements(
    records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn]
) -> tuple[Agreement, ...]:
    """The agreement of each pair of judges with equal options, for each form."""
    methods = {row.label for row in method_rows}
    agreements = []
    for one, other in combinations([column for column in metric_columns if column.metric == METRIC], 2):
        if one.options == other.options and one.judge != other.judge:
            forms = str(one.options.get("forms", "")).split(",")
            agreements += [_agreement(records, methods, (one, other), form) for form in FORMS if form in forms]
    return tuple(agreements)


def _agreement(records: Sequence[Record], methods: set[str], pair: tuple[MetricColumn, MetricColumn], form: str) -> Agreement:
    one, other = pair
    verdicts = {
        (record.sample, record.method, record.metric): float(record.extra[form])
        for record in records
        if record.value is not None and form in record.extra and record.method in methods
    }
    clusters = {record.sample: f"group {record.group}" if record.group is not None else f"sample {record.sample}" for record in records}
    cells_by_sample: dict[str, Verdicts] = {}
    for (sample, method, metric), verdict in verdicts.items():
        if metric == one.label and (sample, method, other.label) in verdicts:
            cells_by_sample.setdefault(sample, []).append((verdict, verdicts[sample, method, other.label]))
    cells = [cell for sample_cells in cells_by_sample.values() for cell in sample_cells]
    return Agreement(
        metric=one.label,
        other=other.label,
        judges=(one.judge, other.judge),
        form=form,
        cells=len(cells),
        samples=len(cells_by_sample),
        equal=_equal_share(cells_by_sample, clusters),
        kappa=kappa(cells),
    )


def _equal_share(cells_by_sample: Mapping[str, Verdicts], clusters: Mapping[str, str]) -> Number:
    """The share of cells whose two verdicts are equal."""
    if not cells_by_sample:
        return Number(None)
    equal = np.array([float(sum(one == other for one, other in cells)) for cells in cells_by_sample.values()])
    counts = np.array([float(len(cells)) for cells in cells_by_sample.values()])
    return share([clusters[sample] for sample in cells_by_sample], equal, counts)


def kappa(cells: Verdicts) -> float | None:
    """Cohen's kappa: (observed - expected) / (1 - expected), both shares of equal verdicts. None for 0 / 0, or without cells.

    Source: Cohen 1960, doi:10.1177/001316446002000104.
    """
    if not cells:
        return None
    observed = sum(one == other for one, other in cells) / len(cells)
    values = {verdict for cell in cells for verdict in cell}
    expected = sum(sum(one == value for one, _ in cells) * sum(other == value for _, other in cells) for value in values) / len(cells) ** 2
    return None if expected == 1 else (observed - expected) / (1 - expected)


MINIMUM_TOP_P = "minimum_top_p"


@dataclass(frozen=True)
class MinimalWordsRow:
    """One method or control."""

    method: str
    control: bool
    mean: Number
    """The share of words that are left at the last right answer: the mean over the compared samples, in (0, 1]. Lower is better."""
    shares: tuple[float, ...]
    """That share for each compared sample, in ascending order."""
    out: int
    """How many samples are undefined: the judge is wrong with all words."""
    calls: float
    """How many clues the search needs, over all samples with a value. Clues from the cache count too."""
    plain_calls: float
    """How many clues it takes to drop one word at a time."""

    @property
    def saved(self) -> float:
        """How many clues bisection saves."""
        return self.plain_calls - self.calls


@dataclass(frozen=True)
class MinimalWordsSummary:
    """The table of one metric column, which has one judge. Methods come first, the smallest mean on top, then controls."""

    metric: str
    judge: str
    form: str
    samples: int
    """How many samples the table compares: those for which every row has a value."""
    clusters: int
    rows: tuple[MinimalWordsRow, ...]
    remarks: tuple[str, ...] = ()


def minimal_words_summaries(
    records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn]
) -> tuple[MinimalWordsSummary, ...]:
    """One table for each `minimum_top_p` column."""
    return tuple(_summary(records, method_rows, column) for column in metric_columns if column.metric == MINIMUM_TOP_P)


def _summary(records: Sequence[Record], method_rows: Sequence[MethodRow], column: MetricColumn) -> MinimalWordsSummary:
    common = common_samples(records, method_rows, [column.label])
    jackknife = ClusterJackknife(common.clusters) if common.values.size else None
    left_out = jackknife.means(common.values[..., 0]) if jackknife is not None else None
    rows = []
    for method_row in method_rows:
        mean, shares = Number(None), ()
        if jackknife is not None and left_out is not None and method_row in common.rows:
            index = common.rows.index(method_row)
            values = common.values[:, index, 0]
            mean, shares = number(jackknife, float(values.mean()), left_out[:, index], SHARE), tuple(sorted(values.tolist()))
        row_records = [record for record in records if (record.metric, record.method) == (column.label, method_row.label)]
        extras = [record.extra for record in row_records if {"calls", "plain_calls"} <= record.extra.keys()]
        rows.append(
            MinimalWordsRow(
                method=method_row.label,
                control=method_row.control,
                mean=mean,
                shares=shares,
                out=sum(record.status == "undefined" for record in row_records),
                calls=float(sum(extra["calls"] for extra in extras)),
                plain_calls=float(sum(extra["plain_calls"] for extra in extras)),
            )
        )
    rows.sort(key=lambda row: (row.control, row.mean.value is None, row.mean.value))
    return MinimalWordsSummary(
        metric=column.label,
        judge=column.judge,
        form=str(column.options.get("form", "")),
        samples=len(common.values) if jackknife is not None else 0,
        clusters=jackknife.clusters if jackknife is not None else 0,
        rows=tuple(rows),
        remarks=(*common.remarks, *(few_clusters(jackknife) if jackknife is not None else ())),
    )


@dataclass(frozen=True)
class Point:
    """One method or control."""

    method: str
    control: bool
    faithfulness: Number
    """Sum of the log-ratios of Soft-NS and Soft-NC to random. Higher is better."""
    rate: Number
    """How often the answer is right with the kept words. Higher is better."""


@dataclass(frozen=True)
class Correlation:
    """The rank correlation between one measure of faithfulness and the verdicts of one judge."""

    faithfulness: str
    answerability: str
    """The labels of the two measures."""
    judge: str
    form: str
    points: tuple[Point, ...]
    """Methods come first, the highest rate on top, then controls."""
    spearman: Number
    """Spearman's rank correlation over the methods, without controls, in [-1, 1]. None if there are fewer than three methods, or if
    all are equal. The interval comes from a cluster bootstrap over samples. It says how certain the ranks of these methods are. It
    says nothing about other methods."""
    methods: int
    """The number of methods in the correlation."""
    samples: int
    """How many samples have a value in every row under all three metrics."""
    remarks: tuple[str, ...] = ()


def faithfulness_correlations(
    records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn], seed: int = 0
) -> tuple[Correlation, ...]:
    """One correlation for each pair of Soft-NS and Soft-NC with equal options, and each `answerability` column.

    Empty if there is no random row. `seed` is the seed of the bootstrap.
    """
    if not any(row.label == REFERENCE for row in method_rows):
        return ()
    answers = [column for column in metric_columns if column.metric == METRIC]
    return tuple(_correlation(records, method_rows, pair, answer, seed) for pair in _pairs(metric_columns) for answer in answers)


def _pairs(metric_columns: Sequence[MetricColumn]) -> Iterator[tuple[MetricColumn, MetricColumn]]:
    for one in metric_columns:
        if one.metric == "soft_ns":
            yield from ((one, other) for other in metric_columns if other.metric == "soft_nc" and other.options == one.options)


def _correlation(
    records: Sequence[Record], method_rows: Sequence[MethodRow], pair: tuple[MetricColumn, MetricColumn], answer: MetricColumn, seed: int
) -> Correlation:
    common = common_samples(records, method_rows, [pair[0].label, pair[1].label, answer.label])
    empty = Correlation(
        faithfulness=pair[0].label.replace("soft_ns", FAITHFULNESS, 1),
        answerability=answer.label,
        judge=answer.judge,
        form=str(answer.options.get("forms", "")).split(",")[0],
        points=(),
        spearman=Number(None),
        methods=0,
        samples=0,
        remarks=tuple(common.remarks),
    )
    reference = next((index for index, row in enumerate(common.rows) if row.label == REFERENCE), None)
    if not common.values.size or reference is None:
        return empty
    jackknife, bootstrap = ClusterJackknife(common.clusters), ClusterBootstrap(common.clusters, seed=seed)
    means, left_out, resampled = common.values.mean(0), jackknife.means(common.values), bootstrap.means(common.values)
    faithful, faithful_left_out, faithful_resampled = (log_ratio(values[..., :2], reference) for values in (means, left_out, resampled))
    points = []
    for index, row in enumerate(common.rows):
        faithfulness = number(jackknife, float(faithful[index]), faithful_left_out[:, index])
        rate = number(jackknife, float(means[index, 2]), left_out[:, index, 2], SHARE)
        points.append(Point(row.label, row.control, faithfulness, rate))
    methods = [index for index, row in enumerate(common.rows) if not row.control and np.isfinite(faithful[index])]
    rho = Number(None)
    if len(methods) > 2:
        draws = rank_correlations(faithful_resampled[:, methods], resampled[:, methods, 2])
        estimate = float(rank_correlations(faithful[None, methods], means[None, methods, 2])[0])
        rho = _bootstrap_number(bootstrap, estimate, draws)
    points.sort(key=lambda point: (point.control, -(point.rate.value or 0.0)))
    return replace(
        empty,
        points=tuple(points),
        spearman=rho,
        methods=len(methods),
        samples=len(common.samples),
        remarks=(*common.remarks, *few_clusters(jackknife)),
    )


def _bootstrap_number(bootstrap: ClusterBootstrap, estimate: float, resampled: Float[np.ndarray, " resamples"]) -> Number:
    """The estimate with its bootstrap interval. Empty if the estimate is not finite."""
    if not np.isfinite(estimate):
        return Number(None)
    return Number(estimate, *(bootstrap.interval(resampled) or (None, None)))
