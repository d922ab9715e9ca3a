"""What sanity checks find: for each check and method whether it passed, and the figure that says so."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from noiser.results.display import view

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
