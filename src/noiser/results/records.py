"""What an evaluation is made of: examples in, a record for each of them, each method and each metric, and tables out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OK = "ok"


@dataclass(frozen=True)
class Example:
    """A prompt to judge methods on."""

    prompt: Any
    """Text, token ids, a Prompt, or a chat; or a NoiserError that says why there is none."""
    target: Any = None
    """The token to explain, as text with its leading space or as an id; None: the model's own prediction."""
    id: str | None = None
    """A name; its place among the examples where there is none."""
    group: str | None = None
    """What it was made from (a template, a relation, a document): samples of one group are not independent of each other."""


@dataclass(frozen=True)
class MethodRow:
    """A row of the table: a method with its options, or a control."""

    label: str
    method: str
    options: Mapping[str, Any]
    control: bool


@dataclass(frozen=True)
class MetricColumn:
    """A column of the table: a metric with its options."""

    label: str
    metric: str
    options: Mapping[str, Any]
    better: str
    relative: bool
    judge: str = ""
    """The name of the judge that it asks; empty where it asks none."""


@dataclass(frozen=True)
class Record:
    """What became of one example, method and metric."""

    sample: str
    group: str | None
    """None: it is a group of its own."""
    method: str
    metric: str
    status: str
    """`ok`, `undefined`, `nonfinite`, `oom`, `timeout`, `refused`, `invalid_answer`, or `error(CLASS)`; nothing is ever dropped."""
    value: float | None = None
    """Mean over the steps of a continuation. None unless `ok`; or `refused` or `invalid_answer`, which count as a wrong answer."""
    message: str = ""
    """Why it is not `ok`."""
    steps: tuple[Mapping[str, Any], ...] = ()
    """For each explained token what the value is made of: values of single masks, shares, d0."""
    trace: str = ""
    """The traceback of an exception that is not noiser's own."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Other numbers of the metric, by name; means over the steps, like the value."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values. The key of `extra` is `also`."""
        plain = {name: value for name, value in vars(self).items() if name != "extra"}
        return {**plain, "steps": [dict(step) for step in self.steps], "also": dict(self.extra)}


@dataclass(frozen=True)
class Number:
    """A statistic and its 95 % interval; None where it has none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return vars(self).copy()


@dataclass(frozen=True)
class Row:
    """One method or control under one metric."""

    method: str
    control: bool
    mean: Number
    """Over the samples that every row has."""
    log_ratio: Number | None
    """log(mean / mean of random); None where the metric is not reported so. For `faithfulness` there is only this."""
    group: str
    """Letters: methods that share one do not differ after Holm's correction. Empty for controls."""
    statuses: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        numbers = {name: getattr(self, name).to_dict() if getattr(self, name) else None for name in ("mean", "log_ratio")}
        return {**vars(self), **numbers, "statuses": dict(self.statuses)}


@dataclass(frozen=True)
class Summary:
    """One metric's table, best row first among the methods; then the controls."""

    metric: str
    better: str
    rows: tuple[Row, ...]
    samples: int
    """How many every row has a value for: the ones that are compared."""
    clusters: int
    differences: tuple[Mapping[str, Any], ...] = ()
    """Of every two methods: the difference of their means with its interval, p after Holm's correction."""
    remarks: tuple[str, ...] = ()
    """What has to be said in words: controls that beat methods, samples that are missing."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        rest = {"rows": [row.to_dict() for row in self.rows], "differences": [dict(each) for each in self.differences]}
        return {**vars(self), **rest, "remarks": list(self.remarks)}
