"""The parts of an evaluation: examples, a record for each example, method and metric, and the rows of tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OK = "ok"


@dataclass(frozen=True)
class Example:
    """A prompt to evaluate methods on."""

    prompt: Any
    """Text, token ids, a Prompt, or a chat. A NoiserError instead says why the prompt could not be read."""
    target: Any = None
    """What to explain: a word, with or without its leading space (see `noiser.lm.following.with_space`), an id, or ids. None: the
    model's own prediction."""
    id: str | None = None
    """A name. The default is the position among the examples."""
    group: str | None = None
    """What it was made from (a template, a relation, a document). Samples of one group are not independent."""


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
    """The name of the judge that the metric asks; empty if it asks none."""


@dataclass(frozen=True)
class Record:
    """The outcome of one example, method and metric."""

    sample: str
    group: str | None
    """None: the sample is a group of its own."""
    method: str
    metric: str
    status: str
    """`ok`, `undefined`, `nonfinite`, `oom`, `timeout`, `refused`, `invalid_answer`, or `error(CLASS)`; nothing is ever dropped."""
    value: float | None = None
    """Mean over the steps of a continuation. None unless `ok`; or `refused` or `invalid_answer`, which count as a wrong answer."""
    message: str = ""
    """Why the status is not `ok`."""
    steps: tuple[Mapping[str, Any], ...] = ()
    """For each explained token the details of the value: values of single masks, shares, d0."""
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
    """A statistic and its 95 % interval; None for what does not exist."""

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
    """Over the samples for which every row has a value."""
    log_ratio: Number | None
    """log(mean / mean of random). None if the metric is not reported so. `faithfulness` has only this number."""
    group: str
    """Letters: methods that share one do not differ after Holm's correction. Empty for controls."""
    statuses: Mapping[str, int]
    win_rate: Number | None = None
    """Mean share of random orders of a sample's tokens that the row beats, in [0, 1]; 0.5 is chance. None: they were not run."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values. `win_rate` is there only if random orders were run."""
        numbers = {name: getattr(self, name).to_dict() if getattr(self, name) else None for name in ("mean", "log_ratio", "win_rate")}
        plain = {**vars(self), **numbers, "statuses": dict(self.statuses)}
        return plain if self.win_rate else {name: value for name, value in plain.items() if name != "win_rate"}


@dataclass(frozen=True)
class Summary:
    """The table of one metric: methods first, the best on top, then controls."""

    metric: str
    better: str
    rows: tuple[Row, ...]
    samples: int
    """How many samples every row has a value for: the samples that are compared."""
    clusters: int
    differences: tuple[Mapping[str, Any], ...] = ()
    """For every two methods the difference of their means with its interval, and p after Holm's correction."""
    remarks: tuple[str, ...] = ()
    """Sentences: controls that beat methods, samples that are missing."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        rest = {"rows": [row.to_dict() for row in self.rows], "differences": [dict(each) for each in self.differences]}
        return {**vars(self), **rest, "remarks": list(self.remarks)}
