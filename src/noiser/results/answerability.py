"""Tables of answerability: each method's rates and scores for one judge and one form, and the judge's rates without any method."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from noiser.results.records import MethodRow, MetricColumn, Number, Record
from noiser.results.statistics import ClusterJackknife, wilson
from noiser.results.tables import CommonSamples, RowComparison, common_samples, few_clusters, number

Form = Literal["top1", "top5"]
"""What the judge must name: the most probable word, or the five most probable words."""
FORMS: tuple[Form, ...] = ("top1", "top5")
METRIC = "answerability"
SHARE = (0.0, 1.0)
"""The limits of a rate, and of a share."""
CONDITIONS = ("all", "random", "none", "canary")
"""Conditions that do not depend on a method: all words; the same number of random words; no words; all words and a hidden
instruction among them. The rate of `canary` says how often the judge obeys that instruction."""


@dataclass(frozen=True)
class Rate:
    """A share of samples."""

    right: float
    """How many samples are right. Not a whole number if a sample is a mean over a continuation."""
    of: int
    """How many samples there are."""
    clustered: Number
    """The rate, with its interval by jackknife over clusters."""
    wilson: Number
    """The rate with Wilson's interval, which treats samples as independent. No interval if a sample is not 0 or 1."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {**vars(self), "clustered": self.clustered.to_dict(), "wilson": self.wilson.to_dict()}


@dataclass(frozen=True)
class AnswerRow:
    """One method or control."""

    method: str
    control: bool
    group: str
    """Letters: two methods that share a letter do not differ in their rates after Holm's correction. Empty for controls."""
    rate: Rate | None
    """How often the answer is right with the kept words; higher is better. None if the row has no value."""
    shuffled: Rate | None
    """The rate with the kept words in a random order. None if the judge saw no such clue."""
    score: Number
    """The mean over all samples of the kept words' share of the attribution, which counts as 0 if the answer is wrong; in [0, 1]."""
    score_answered: Number
    """The mean of that share over the samples whose answer is right. No interval if they come from fewer than 5 clusters."""
    mass: Number
    """The mean of the kept words' share of the attribution. It does not depend on the answer."""
    refused: float
    """How many of the compared samples the judge refuses to answer. They count as wrong."""
    invalid: float
    """How many of the compared samples have a reply without an answer. They count as wrong."""
    given: float
    """How many of the compared samples have the right word itself among the kept words."""
    undefined: int
    """How many of all samples are undefined."""
    errors: int
    """How many of all samples have no value for another reason."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {name: value.to_dict() if isinstance(value, Rate | Number) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class AnswerSummary:
    """The table of one metric column, which has one judge, and one form. Methods come first, the best on top, then controls."""

    metric: str
    judge: str
    form: str
    """`top1`: the most probable word. `top5`: any of the five most probable words."""
    options: Mapping[str, Any]
    samples: int
    """How many samples the table compares: those for which every row has a value."""
    clusters: int
    rows: tuple[AnswerRow, ...]
    conditions: Mapping[str, Rate]
    """The rates of the conditions that the judge answered, by the names in CONDITIONS."""
    differences: tuple[Mapping[str, Any], ...] = ()
    """For each pair of methods: the difference of their rates with its interval, and p after Holm's correction."""
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {
            **vars(self),
            "rows": [row.to_dict() for row in self.rows],
            "conditions": {name: rate.to_dict() for name, rate in self.conditions.items()},
            "differences": [dict(difference) for difference in self.differences],
            "remarks": list(self.remarks),
            "options": dict(self.options),
        }


def answer_summaries(
    records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn]
) -> tuple[AnswerSummary, ...]:
    """One table for each `answerability` column and each of its forms, in this order."""
    summaries = []
    for column in metric_columns:
        if column.metric == METRIC:
            forms = str(column.options.get("forms", "")).split(",")
            summaries += [_summary(records, method_rows, column, form) for form in FORMS if form in forms]
    return tuple(summaries)


def answerers(steps: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The ids of the models that answered, under their servers' names for them. Each id appears once, in alphabetical order."""
    answers = [answer for step in steps for form in step.get("forms", {}).values() for answer in form.values()]
    return tuple(sorted({answer["model"] for answer in answers if isinstance(answer, Mapping) and answer.get("model")}))


def _summary(records: Sequence[Record], method_rows: Sequence[MethodRow], column: MetricColumn, form: str) -> AnswerSummary:
    form_records = [replace(record, value=_form_value(record, form)) if record.metric == column.label else record for record in records]
    common = common_samples(form_records, method_rows, [column.label])
    missing = {row.label: _count_missing(records, column.label, row.label) for row in method_rows}
    empty_rows = [_empty_row(row, missing[row.label]) for row in method_rows if row not in common.rows]
    summary = AnswerSummary(
        metric=column.label,
        judge=column.judge,
        form=form,
        options=dict(column.options),
        samples=len(common.values) if common.values.size else 0,
        clusters=0,
        rows=tuple(empty_rows),
        conditions={},
        remarks=tuple(common.remarks),
    )
    if not common.values.size:
        return summary
    statistics = _FormStatistics(records, column.label, form, common)
    rates, rates_left_out = statistics.means()
    comparison = RowComparison(common.rows, statistics.jackknife, rates, rates_left_out, 1.0)
    letters, differences = comparison.groups()
    rows = [statistics.row(index, letters.get(index, ""), missing[common.rows[index].label]) for index in comparison.order()]
    rows = sorted([*rows, *empty_rows], key=lambda row: row.control)
    remarks = (*comparison.remarks(), *common.remarks, *statistics.remarks(), *few_clusters(statistics.jackknife))
    return replace(
        summary,
        clusters=statistics.jackknife.clusters,
        rows=tuple(rows),
        conditions=statistics.conditions(),
        differences=tuple(differences),
        remarks=remarks,
    )


def _form_value(record: Record, form: str) -> float | None:
    """The record's verdict under this form. None if it has no value."""
    value = record.extra.get(form) if record.value is not None else None
    return None if value is None else float(value)


def _count_missing(records: Sequence[Record], metric: str, method: str) -> tuple[int, int]:
    """How many records without a value are undefined, and how many lack it for another reason."""
    statuses = [record.status for record in records if (record.metric, record.method) == (metric, method) and record.value is None]
    return statuses.count("undefined"), len(statuses) - statuses.count("undefined")


def _empty_row(row: MethodRow, missing: tuple[int, int]) -> AnswerRow:
    undefined, errors = missing
    return AnswerRow(
        method=row.label,
        control=row.control,
        group="",
        rate=None,
        shuffled=None,
        score=Number(None),
        score_answered=Number(None),
        mass=Number(None),
        refused=0.0,
        invalid=0.0,
        given=0.0,
        undefined=undefined,
        errors=errors,
    )


Array = Float[np.ndarray, "samples rows"]
LeftOut = Float[np.ndarray, "clusters rows"]


class _FormStatistics:
    """The statistics of one form on the common samples of all rows."""

    def __init__(self, records: Sequence[Record], label: str, form: str, common: CommonSamples) -> None:
        self.form, self.common = form, common
        self.jackknife = ClusterJackknife(common.clusters)
        extras = {(record.sample, record.method): record.extra for record in records if record.metric == label}
        self._extras = [[extras[sample, row.label] for row in common.rows] for sample in common.samples]
        self._arrays: dict[str, Array] = {}

    def array(self, name: str) -> Array:
        """One extra number of every record. NaN if a record lacks it."""
        if name not in self._arrays:
            self._arrays[name] = np.array(
                [[extra.get(name, np.nan) for extra in sample_extras] for sample_extras in self._extras], dtype=np.float64
            )
        return self._arrays[name]

    def verdicts(self, condition: str = "") -> Array:
        """The judge's verdicts for the kept words, or for the words of a condition."""
        return self.array(f"{self.form}.{condition}" if condition else self.form)

    def means(self) -> tuple[Float[np.ndarray, " rows"], LeftOut]:
        """The mean verdict of each row for the kept words, and the same without each cluster."""
        values = self.verdicts()
        return values.mean(0), self.jackknife.means(values)

    def rate(self, values: Float[np.ndarray, " samples"]) -> Rate | None:
        """The share of right answers. None if a sample has no value."""
        if not np.isfinite(values).all():
            return None
        right, of = float(values.sum()), len(values)
        clustered = number(self.jackknife, right / of, self.jackknife.means(values), SHARE)
        ends = wilson(round(right), of) if np.isin(values, (0.0, 1.0)).all() else (None, None)
        return Rate(right, of, clustered, Number(right / of, *ends))

    def row(self, index: int, group: str, missing: tuple[int, int]) -> AnswerRow:
        """The table's row for one method or control."""
        method_row = self.common.rows[index]
        names = ("", ".score", ".shuffled", ".refused", ".invalid")
        right, score, shuffled, refused, invalid = (self.array(f"{self.form}{name}")[:, index] for name in names)
        mass, given = (self.array(name)[:, index] for name in ("mass", "given"))
        undefined, errors = missing
        return AnswerRow(
            method=method_row.label,
            control=method_row.control,
            group=group,
            rate=self.rate(right),
            shuffled=self.rate(shuffled),
            score=self.mean(score),
            score_answered=share(self.common.clusters, score, right),
            mass=self.mean(mass),
            refused=_count(refused),
            invalid=_count(invalid),
            given=_count(given),
            undefined=undefined,
            errors=errors,
        )

    def mean(self, values: Float[np.ndarray, " samples"]) -> Number:
        """The mean with its interval. Empty if a sample has no value."""
        return number(self.jackknife, float(values.mean()), self.jackknife.means(values), SHARE)

    def conditions(self) -> dict[str, Rate]:
        """The rate of each condition. A sample's reply is the same for all rows, so the first row that has one counts."""
        rates = {name: self.rate(_first_finite(self.verdicts(name))) for name in CONDITIONS}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def remarks(self) -> list[str]:
        """Remarks on a weak judge, on different answers to the same clue, and on rates without Wilson's interval."""
        sentences = list(_weak_judge_remarks(self.conditions()))
        for name in CONDITIONS:
            values = self.verdicts(name)
            differing = int((np.isfinite(values) & (values != _first_finite(values)[:, None])).any(1).sum())
            if differing:
                sentences.append(
                    f"{name}: the judge answered the same clue differently in {differing} samples; the first row's answer counts"
                )
        if not all(value.is_integer() for value in self.verdicts().ravel().tolist()):
            sentences.append("a continuation's rate is a mean over its tokens: Wilson's interval is missing if a mean is not 0 or 1")
        return sentences


def _weak_judge_remarks(conditions: Mapping[str, Rate]) -> Iterator[str]:
    """A remark if the judge is rarely right even with all words."""
    ceiling, floor = conditions.get("all"), conditions.get("none")
    if ceiling is None or floor is None:
        return
    low = ceiling.wilson.low
    if low is not None and low <= floor.right / floor.of:
        yield (
            f"with all words the judge is right in {ceiling.right:g} of {ceiling.of} samples, with none in {floor.right:g}: that cannot be "
            "told apart, so its answers say nothing about the methods. Ask a stronger judge"
        )
    elif ceiling.right < ceiling.of / 2:
        yield f"even with all words the judge is right in {ceiling.right:g} of {ceiling.of} samples only: a stronger one would tell more"


def _count(values: Float[np.ndarray, " samples"]) -> float:
    return float(np.nan_to_num(values).sum())


def _first_finite(values: Array) -> Float[np.ndarray, " samples"]:
    """Each sample's value from the first row that has one. NaN if no row has one."""
    first = np.isfinite(values).argmax(1)
    return values[np.arange(len(values)), first]


def share(clusters: Sequence[str], part: Float[np.ndarray, " samples"], whole: Float[np.ndarray, " samples"]) -> Number:
    """The share sum(part) / sum(whole), in [0, 1], with its interval. Each sample has its cluster.

    The interval counts only clusters whose `whole` is not 0. No value if `whole` is 0 everywhere.
    """
    nonzero = np.flatnonzero(whole).tolist()
    if not len(nonzero):
        return Number(None)
    jackknife = ClusterJackknife([clusters[sample] for sample in nonzero])
    left_out = jackknife.means(np.stack([part[nonzero], whole[nonzero]], axis=1))
    with np.errstate(invalid="ignore"):  # 0 / 0 if there is only one cluster: no interval
        return number(jackknife, float(part.sum() / whole.sum()), left_out[:, 0] / left_out[:, 1], SHARE)
