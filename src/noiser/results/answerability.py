"""Tables of answerability: rates and scores of every method for one judge and one form, and what the judge can do by itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from noiser.results.records import MethodRow, MetricColumn, Number, Record
from noiser.results.statistics import ClusterJackknife, wilson
from noiser.results.tables import CommonSamples, RowComparison, common_samples, few_clusters, number

Form = Literal["top1", "top5"]
"""What a judge is asked for: the most probable word, or the five most probable words."""
FORMS: tuple[Form, ...] = ("top1", "top5")
METRIC = "answerability"
SHARE = (0.0, 1.0)
"""The limits of a rate, and of a share."""
CONDITIONS = ("all", "random", "none", "canary")
"""Conditions that do not depend on a method: all words; equally many random words; no words; all words with a hidden instruction
among them, for which the rate says how often the judge obeyed it."""


@dataclass(frozen=True)
class Rate:
    """A share of samples."""

    right: float
    """How many. Not a whole number if a sample is a mean over a continuation."""
    of: int
    clustered: Number
    """The rate, with its interval by jackknife over clusters."""
    wilson: Number
    """The rate with Wilson's interval, which treats samples as independent. No interval if `right` is not a whole number."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {**vars(self), "clustered": self.clustered.to_dict(), "wilson": self.wilson.to_dict()}


@dataclass(frozen=True)
class AnswerRow:
    """One method or control."""

    method: str
    control: bool
    group: str
    """Letters: methods that share one do not differ in their rates after Holm's correction. Empty for controls."""
    rate: Rate | None
    """How often the answer is right with the kept words; higher is better. None if the row has no value."""
    shuffled: Rate | None
    """The same with the kept words in a random order. None if the judge was not asked."""
    score: Number
    """The kept words' share of the attribution if the answer is right, else 0: the mean over all samples, in [0, 1]."""
    score_answered: Number
    """The mean over the samples whose answer is right. No interval if they come from fewer than 5 clusters."""
    mass: Number
    """The kept words' share of the attribution, whatever the answer."""
    refused: float
    """Of the samples common_samples, how many the judge would not answer; they count as wrong."""
    invalid: float
    """Of the samples common_samples, how many replies held no answer; they count as wrong."""
    given: float
    """Of the samples common_samples, how many have the right word itself among the kept ones."""
    undefined: int
    """Of all samples."""
    errors: int
    """Of all samples."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {name: each.to_dict() if isinstance(each, Rate | Number) else each for name, each in vars(self).items()}


@dataclass(frozen=True)
class AnswerSummary:
    """The table of one metric column (so of one judge) and one form: methods first, the best on top, then controls."""

    metric: str
    judge: str
    form: str
    """`top1`: the most probable word; `top5`: any of the five most probable ones."""
    options: Mapping[str, Any]
    samples: int
    """How many samples every row has a value for: the samples that are compared."""
    clusters: int
    rows: tuple[AnswerRow, ...]
    conditions: Mapping[str, Rate]
    """By the names in CONDITIONS, for the conditions that were asked."""
    differences: tuple[Mapping[str, Any], ...] = ()
    """For every two methods the difference of their rates with its interval, and p after Holm's correction."""
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        rows, conditions = [row.to_dict() for row in self.rows], {name: each.to_dict() for name, each in self.conditions.items()}
        rest = {"differences": [dict(each) for each in self.differences], "remarks": list(self.remarks), "options": dict(self.options)}
        return {**vars(self), "rows": rows, "conditions": conditions, **rest}


def answer_summaries(
    records: Sequence[Record], method_rows: Sequence[MethodRow], metric_columns: Sequence[MetricColumn]
) -> tuple[AnswerSummary, ...]:
    """For every `answerability` among the metric_columns and every form that was asked, in this order."""
    found = []
    for column in metric_columns:
        if column.metric == METRIC:
            asked = str(column.options.get("forms", "")).split(",")
            found += [_summary(records, method_rows, column, form) for form in FORMS if form in asked]
    return tuple(found)


def answerers(steps: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The ids of the models that answered, as their servers name them, each once, in alphabetical order."""
    answers = [answer for step in steps for form in step.get("forms", {}).values() for answer in form.values()]
    return tuple(sorted({answer["model"] for answer in answers if isinstance(answer, Mapping) and answer.get("model")}))


def _summary(records: Sequence[Record], method_rows: Sequence[MethodRow], column: MetricColumn, form: str) -> AnswerSummary:
    derived = [replace(each, value=_of_form(each, form)) if each.metric == column.label else each for each in records]
    found = common_samples(derived, method_rows, [column.label])
    lost = {each.label: _lost(records, column.label, each.label) for each in method_rows}
    empty = [_without_value(each, lost[each.label]) for each in method_rows if each not in found.rows]
    summary = AnswerSummary(
        metric=column.label,
        judge=column.judge,
        form=form,
        options=dict(column.options),
        samples=len(found.values) if found.values.size else 0,
        clusters=0,
        rows=tuple(empty),
        conditions={},
        remarks=tuple(found.remarks),
    )
    if not found.values.size:
        return summary
    measured = _Measured(records, column.label, form, found)
    comparing = RowComparison(found.rows, measured.jackknife, *measured.of("")[:2], 1.0)
    letters, differences = comparing.groups()
    rows = [measured.row(place, letters.get(place, ""), lost[found.rows[place].label]) for place in comparing.order()]
    rows = sorted([*rows, *empty], key=lambda row: row.control)
    remarks = (*comparing.remarks(), *found.remarks, *measured.remarks(), *few_clusters(measured.jackknife))
    return replace(
        summary,
        clusters=measured.jackknife.clusters,
        rows=tuple(rows),
        conditions=measured.conditions(),
        differences=tuple(differences),
        remarks=remarks,
    )


def _of_form(record: Record, form: str) -> float | None:
    found = record.extra.get(form) if record.value is not None else None
    return None if found is None else float(found)


def _lost(records: Sequence[Record], metric: str, method: str) -> tuple[int, int]:
    """How many records have no value: undefined, and for another reason."""
    statuses = [each.status for each in records if (each.metric, each.method) == (metric, method) and each.value is None]
    return statuses.count("undefined"), len(statuses) - statuses.count("undefined")


def _without_value(row: MethodRow, lost: tuple[int, int]) -> AnswerRow:
    none, (undefined, errors) = Number(None), lost
    return AnswerRow(row.label, row.control, "", None, None, none, none, none, 0.0, 0.0, 0.0, undefined, errors)


Array = Float[np.ndarray, "samples rows"]
LeftOut = Float[np.ndarray, "clusters rows"]


class _Measured:
    """The numbers of one form on the samples that all rows have in common."""

    def __init__(self, records: Sequence[Record], label: str, form: str, found: CommonSamples) -> None:
        self.form, self.found = form, found
        self.jackknife = ClusterJackknife(found.clusters)
        also = {(each.sample, each.method): each.extra for each in records if each.metric == label}
        self._also = [[also[sample, row.label] for row in found.rows] for sample in found.samples]
        self._arrays: dict[str, Array] = {}

    def array(self, name: str) -> Array:
        """One of the extra numbers of every record; NaN if a record lacks it."""
        if name not in self._arrays:
            self._arrays[name] = np.array([[row.get(name, np.nan) for row in sample] for sample in self._also], dtype=np.float64)
        return self._arrays[name]

    def of(self, condition: str) -> tuple[Float[np.ndarray, " rows"], LeftOut, Array]:
        """Means, means without each cluster, and values of what the judge made of the kept words, or of another choice of words."""
        values = self.array(f"{self.form}.{condition}" if condition else self.form)
        return values.mean(0), self.jackknife.means(values), values

    def rate(self, values: Float[np.ndarray, " samples"]) -> Rate | None:
        """None if a sample has no value."""
        if not np.isfinite(values).all():
            return None
        right, of = float(values.sum()), len(values)
        clustered = number(self.jackknife, right / of, self.jackknife.means(values), SHARE)
        ends = wilson(round(right), of) if np.isin(values, (0.0, 1.0)).all() else (None, None)
        return Rate(right, of, clustered, Number(right / of, *ends))

    def row(self, place: int, group: str, lost: tuple[int, int]) -> AnswerRow:
        """All numbers of one row."""
        own, form = self.found.rows[place], self.form
        names = ("", ".score", ".shuffled", ".refused", ".invalid")
        right, score, shuffled, refused, invalid = (self.array(f"{form}{name}")[:, place] for name in names)
        mass, given = (self.array(name)[:, place] for name in ("mass", "given"))
        undefined, errors = lost
        return AnswerRow(
            own.label,
            own.control,
            group,
            self.rate(right),
            self.rate(shuffled),
            self.mean(score),
            share(self.found.clusters, score, right),
            self.mean(mass),
            _count(refused),
            _count(invalid),
            _count(given),
            undefined,
            errors,
        )

    def mean(self, values: Float[np.ndarray, " samples"]) -> Number:
        """The mean with its interval; no number if a sample has no value."""
        return number(self.jackknife, float(values.mean()), self.jackknife.means(values), SHARE)

    def conditions(self) -> dict[str, Rate]:
        """A sample's reply is the same for all rows; it is taken from the first row that has one."""
        found = {name: self.rate(_first(self.of(name)[2])) for name in CONDITIONS}
        return {name: rate for name, rate in found.items() if rate is not None}

    def remarks(self) -> list[str]:
        """Remarks: whether the judge can answer at all, whether it answers one clue in two ways, whether Wilson's interval fits."""
        said = list(_able(self.conditions()))
        for name in CONDITIONS:
            values = self.of(name)[2]
            differing = int((np.isfinite(values) & (values != _first(values)[:, None])).any(1).sum())
            if differing:
                said.append(f"{name}: the judge answered the same clue differently in {differing} samples; the first row's answer counts")
        if not all(each.is_integer() for each in self.of("")[2].ravel().tolist()):
            said.append("a continuation's rate is a mean over its tokens: there is no Wilson's interval where that gives no whole number")
        return said


def _able(conditions: Mapping[str, Rate]) -> Iterator[str]:
    """Remarks on a judge that is rarely right even with all words."""
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


def _first(values: Array) -> Float[np.ndarray, " samples"]:
    there = np.isfinite(values)
    return values[np.arange(len(values)), there.argmax(1)]


def share(clusters: Sequence[str], part: Float[np.ndarray, " samples"], whole: Float[np.ndarray, " samples"]) -> Number:
    """A share, part of whole, between 0 and 1; each sample has its cluster. Its interval counts the clusters in which the whole is
    not 0. No value if the whole is 0 everywhere."""
    kept = np.flatnonzero(whole).tolist()
    if not len(kept):
        return Number(None)
    jackknife = ClusterJackknife([clusters[sample] for sample in kept])
    left_out = jackknife.means(np.stack([part[kept], whole[kept]], axis=1))
    with np.errstate(invalid="ignore"):  # 0 / 0 without the only cluster: no interval
        return number(jackknife, float(part.sum() / whole.sum()), left_out[:, 0] / left_out[:, 1], SHARE)
