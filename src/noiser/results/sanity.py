"""What checks of methods and of metrics find, with the figures that say so."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from noiser.results.display import view
from noiser.results.records import Number

Outcome = Literal["pass", "fail", "not applicable"]


@dataclass(frozen=True)
class Verdict:
    """One check of one method."""

    check: str
    method: str
    outcome: Outcome
    figure: float | None
    """What was measured; None where it could not be."""
    said: str
    """The same in words."""


@dataclass(frozen=True)
class Checkup:
    """Every check of every method."""

    model: str
    revision: str
    checks: Mapping[str, str]
    """Their names, and what each wants, in a sentence."""
    methods: tuple[str, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def outcomes(self) -> dict[str, int]:
        """How many verdicts of each kind; they add up to checks times methods."""
        return dict(Counter(verdict.outcome for verdict in self.verdicts))

    def to_dict(self) -> dict[str, Any]:
        """The checkup as plain Python values, in the shape of the command line's JSON (schema 1)."""
        plain = {**vars(self), "schema": 1, "checks": dict(self.checks), "methods": list(self.methods)}
        return {**plain, "outcomes": self.outcomes, "verdicts": [vars(each).copy() for each in self.verdicts]}

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return view("checkup")(self)


@dataclass(frozen=True)
class MetricVerdict:
    """What one metric does on the ladder and on the models built by hand."""

    metric: str
    ladder: Number
    """How often less noise in the scores is above more, of neighbours on the ladder; mean over prompts, in [0, 1]. 0.5 is chance."""
    ends: Number
    """The same for scores without noise and nothing but noise."""
    prompts: int
    """How many prompts had all values."""
    circuits: Mapping[str, float | None]
    """How often it prefers the tokens that decide to as many others, by model. None where it has no value."""
    reason: str = ""
    """Why values are missing. Empty if none is."""

    @property
    def orders(self) -> bool:
        """Whether it orders the ladder better than chance: the 95 % interval of `ladder` is above 0.5."""
        return self.ladder.low is not None and self.ladder.low > 0.5

    @property
    def said(self) -> str:
        """What that means, in words."""
        if self.ladder.value is None:
            return "has no value here"
        if self.ladder.low is None:
            return "too few prompts to tell"
        return "orders the ladder" if self.orders else "cannot order the ladder on these prompts: its differences mean little here"

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        numbers = {"ladder": self.ladder.to_dict(), "ends": self.ends.to_dict()}
        return {**vars(self), **numbers, "circuits": dict(self.circuits), "orders": self.orders, "said": self.said}


@dataclass(frozen=True)
class MetricCheckup:
    """Every metric on the ladder and on the models built by hand, and every method on those models."""

    model: str
    revision: str
    ladder: str
    """The method whose scores are mixed with noise."""
    prompts: int
    verdicts: tuple[MetricVerdict, ...]
    circuits: Mapping[str, str]
    """The models built by hand, and which tokens decide, in words."""
    aurocs: Mapping[str, Mapping[str, float | None]]
    """By method and model: the chance that a token that decides has a higher score than one that does not; mean over prompts, in [0, 1].
    None if the method does not run there."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values, in the shape of the command line's JSON (schema 1)."""
        aurocs = {method: dict(values) for method, values in self.aurocs.items()}
        plain = {"verdicts": [verdict.to_dict() for verdict in self.verdicts], "circuits": dict(self.circuits), "aurocs": aurocs}
        return {**vars(self), "schema": 1, **plain}

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return view("metric_checkup")(self)
