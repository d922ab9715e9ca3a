"""Answerability compared: between judges, with the smallest number of words, and with faithfulness."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from noiser.results.answerability import FORMS, METRIC, SHARE, share
from noiser.results.records import MethodRow, MetricColumn, Number, Record
from noiser.results.scores import rank_correlations
from noiser.results.statistics import ClusterBootstrap, ClusterJackknife
from noiser.results.tables import FAITHFULNESS, REFERENCE, common_samples, few_clusters, log_ratio, number

Verdicts = list[tuple[float, float]]


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree on the same words of the same prompts."""

    metric: str
    other: str
    """The two metrics' labels."""
    judges: tuple[str, str]
    form: str
    cells: int
    """The number of (sample, row) pairs with a verdict of both judges."""
    samples: int
    equal: Number
    """The share of the cells with equal verdicts, in [0, 1], with its interval by jackknife over clusters."""
    kappa: float | None
    """Cohen's kappa: agreement beyond chance, 1 at most. None if both judges always give one verdict, or without verdicts."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {**vars(self), "judges": list(self.judges), "equal": self.equal.to_dict()}


def judge_agreements(
    records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn]
) -> tuple[Agreement, ...]:
    """One for every two judges with equal options, and each form."""
    known = {each.label for each in method_rows}
    found = []
    for one, other in combinations([each for each in metric_columns if each.metric == METRIC], 2):
        if one.options == other.options and one.judge != other.judge:
            asked = str(one.options.get("forms", "")).split(",")
            found += [_agreement(records, known, (one, other), form) for form in FORMS if form in asked]
    return tuple(found)


def _agreement(records: Sequence[Record], known: set[str], pair: tuple[MetricColumn, MetricColumn], form: str) -> Agreement:
    one, other = pair
    said = {
        (each.sample, each.method, each.metric): float(each.extra[form])
        for each in records
        if each.value is not None and form in each.extra and each.method in known
    }
    groups = {each.sample: f"group {each.group}" if each.group is not None else f"sample {each.sample}" for each in records}
    verdicts: dict[str, Verdicts] = {}
    for (sample, method, metric), verdict in said.items():
        if metric == one.label and (sample, method, other.label) in said:
            verdicts.setdefault(sample, []).append((verdict, said[sample, method, other.label]))
    cells = [each for own in verdicts.values() for each in own]
    about = (one.label, other.label, (one.judge, other.judge), form, len(cells), len(verdicts))
    return Agreement(*about, _equal(verdicts, groups), kappa(cells))


def _equal(verdicts: Mapping[str, Verdicts], groups: Mapping[str, str]) -> Number:
    if not verdicts:
        return Number(None)
    equal = np.array([float(sum(one == other for one, other in own)) for own in verdicts.values()])
    cells = np.array([float(len(own)) for own in verdicts.values()])
    return share([groups[sample] for sample in verdicts], equal, cells)


def kappa(cells: Verdicts) -> float | None:
    """Cohen's kappa: (observed - expected) / (1 - expected) share of equal verdicts. None if that is 0 / 0, or without verdicts.

    Source: Cohen 1960, doi:10.1177/001316446002000104.
    """
    if not cells:
        return None
    observed = sum(one == other for one, other in cells) / len(cells)
    kinds = {verdict for cell in cells for verdict in cell}
    expected = sum(sum(one == kind for one, _ in cells) * sum(other == kind for _, other in cells) for kind in kinds) / len(cells) ** 2
    return None if expected == 1 else (observed - expected) / (1 - expected)


MINIMUM_TOP_P = "minimum_top_p"


@dataclass(frozen=True)
class MinimalWordsRow:
    """One method or control."""

    method: str
    control: bool
    mean: Number
    """The share of the words still kept at the last right answer: the mean over the samples common_samples, in (0, 1]; lower is better."""
    shares: tuple[float, ...]
    """Of each sample common_samples, ascending."""
    out: int
    """How many samples are undefined: the judge is wrong with all words."""
    calls: float
    """How many clues the search took, before the cache, over all samples with a value."""
    plain_calls: float
    """How many clues it takes to drop word after word."""

    @property
    def saved(self) -> float:
        """Clues saved by bisection."""
        return self.plain_calls - self.calls


@dataclass(frozen=True)
class MinimalWordsSummary:
    """The table of one metric column, so of one judge: methods first, the smallest mean on top, then controls."""

    metric: str
    judge: str
    form: str
    samples: int
    """How many every row has: the ones that are compared."""
    clusters: int
    rows: tuple[MinimalWordsRow, ...]
    remarks: tuple[str, ...] = ()


def minimal_words_summaries(
    records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn]
) -> tuple[MinimalWordsSummary, ...]:
    """One for each column of `minimum_top_p`."""
    return tuple(_summary(records, method_rows, each) for each in metric_columns if each.metric == MINIMUM_TOP_P)


def _summary(records: Sequence[Record], method_rows: Sequence[MethodRow], column: MetricColumn) -> MinimalWordsSummary:
    found = common_samples(records, method_rows, [column.label])
    jackknife = ClusterJackknife(found.clusters) if found.values.size else None
    left_out = jackknife.means(found.values[..., 0]) if jackknife is not None else None
    rows = []
    for each in method_rows:
        mean, shares = Number(None), ()
        if jackknife is not None and left_out is not None and each in found.rows:
            place = found.rows.index(each)
            values = found.values[:, place, 0]
            mean, shares = number(jackknife, float(values.mean()), left_out[:, place], SHARE), tuple(sorted(values.tolist()))
        own = [record for record in records if (record.metric, record.method) == (column.label, each.label)]
        counted = [record.extra for record in own if {"calls", "plain_calls"} <= record.extra.keys()]
        calls = (float(sum(also[name] for also in counted)) for name in ("calls", "plain_calls"))
        rows.append(MinimalWordsRow(each.label, each.control, mean, shares, sum(record.status == "undefined" for record in own), *calls))
    rows.sort(key=lambda row: (row.control, row.mean.value is None, row.mean.value))
    remarks = (*found.remarks, *(few_clusters(jackknife) if jackknife is not None else ()))
    size = (len(found.values), jackknife.clusters) if jackknife is not None else (0, 0)
    form = str(column.options.get("form", ""))
    return MinimalWordsSummary(column.label, column.judge, form, *size, tuple(rows), remarks)


@dataclass(frozen=True)
class Point:
    """One method or control."""

    method: str
    control: bool
    faithfulness: Number
    """Sum of the log-ratios of Soft-NS and Soft-NC to random; higher is better."""
    rate: Number
    """How often the answer is right with the kept words; higher is better."""


@dataclass(frozen=True)
class Correlation:
    """The rank correlation of one measure of faithfulness with the verdicts of one judge."""

    faithfulness: str
    answerability: str
    """The two labels."""
    judge: str
    form: str
    points: tuple[Point, ...]
    """Highest rate first among the methods, then the controls."""
    spearman: Number
    """Spearman's rank correlation over the methods, without controls, in [-1, 1]. The interval is by cluster bootstrap over samples:
    it says how well the ranks are known, not what other methods would do. None for fewer than three methods, or if all are equal."""
    methods: int
    """The number of methods in the correlation."""
    samples: int
    """How many samples every row has a value for under all three metrics."""
    remarks: tuple[str, ...] = ()


def faithfulness_correlations(
    records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn], seed: int = 0
) -> tuple[Correlation, ...]:
    """For every way in which both Soft-NS and Soft-NC were measured, and every `answerability`; none without the random row. The seed
    is that of the bootstrap."""
    if not any(each.label == REFERENCE for each in method_rows):
        return ()
    answers = [each for each in metric_columns if each.metric == METRIC]
    return tuple(_correlation(records, method_rows, pair, answer, seed) for pair in _pairs(metric_columns) for answer in answers)


def _pairs(metric_columns: Sequence[MetricColumn]) -> Iterator[tuple[MetricColumn, MetricColumn]]:
    for one in metric_columns:
        if one.metric == "soft_ns":
            yield from ((one, other) for other in metric_columns if other.metric == "soft_nc" and other.options == one.options)


def _correlation(
    records: Sequence[Record], method_rows: Sequence[MethodRow], pair: tuple[MetricColumn, MetricColumn], answer: MetricColumn, seed: int
) -> Correlation:
    found = common_samples(records, method_rows, [pair[0].label, pair[1].label, answer.label])
    label = pair[0].label.replace("soft_ns", FAITHFULNESS, 1)
    about = (label, answer.label, answer.judge, str(answer.options.get("forms", "")).split(",")[0])
    reference = next((place for place, row in enumerate(found.rows) if row.label == REFERENCE), None)
    if not found.values.size or reference is None:
        return Correlation(*about, (), Number(None), 0, 0, tuple(found.remarks))
    jackknife, bootstrap = ClusterJackknife(found.clusters), ClusterBootstrap(found.clusters, seed=seed)
    whole, left_out, resampled = found.values.mean(0), jackknife.means(found.values), bootstrap.means(found.values)
    faithful, faithful_left_out, faithful_resampled = (log_ratio(each[..., :2], reference) for each in (whole, left_out, resampled))
    points = [
        Point(
            row.label,
            row.control,
            number(jackknife, float(faithful[place]), faithful_left_out[:, place]),
            number(jackknife, float(whole[place, 2]), left_out[:, place, 2], SHARE),
        )
        for place, row in enumerate(found.rows)
    ]
    methods = [place for place, row in enumerate(found.rows) if not row.control and np.isfinite(faithful[place])]
    rho = Number(None)
    if len(methods) > 2:
        estimate = float(rank_correlations(faithful[None, methods], whole[None, methods, 2])[0])
        ends = bootstrap.interval(rank_correlations(faithful_resampled[:, methods], resampled[:, methods, 2]))
        rho = Number(estimate, *(ends or (None, None))) if np.isfinite(estimate) else rho
    points.sort(key=lambda point: (point.control, -(point.rate.value or 0.0)))
    return Correlation(*about, tuple(points), rho, len(methods), len(found.samples), (*found.remarks, *few_clusters(jackknife)))
