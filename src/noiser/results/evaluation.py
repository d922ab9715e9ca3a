"""The result of `noiser.evaluate`: all records and tables."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from noiser.results.answer_comparison import judge_agreements
from noiser.results.answerability import answer_summaries
from noiser.results.attribution import Cost
from noiser.results.display import view
from noiser.results.records import MethodRow, MetricColumn, Record, Summary


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How faithful several methods are to a model, on the same samples and the same masks."""

    model: str
    revision: str
    seed: int
    methods: tuple[MethodRow, ...]
    metrics: tuple[MetricColumn, ...]
    samples: int
    records: tuple[Record, ...]
    summaries: tuple[Summary, ...]
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """The cost of the attributions by method, and of all metrics together under `metrics`."""
    judges: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """The counts of each judge by name: clues, calls, replies from the cache, each kind of failure."""

    @property
    def planned(self) -> int:
        """How many records an evaluation has."""
        return self.samples * len(self.methods) * len(self.metrics)

    @property
    def statuses(self) -> dict[str, int]:
        """How many records have each status; they add up to `planned`."""
        return dict(Counter(record.status for record in self.records))

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as plain Python values, in the shape of the command line's JSON (schema 1)."""

        given = self.records, self.methods, self.metrics
        return {
            "schema": 1,
            "model": self.model,
            "revision": self.revision,
            "seed": self.seed,
            "samples": self.samples,
            "planned": self.planned,
            "statuses": self.statuses,
            "methods": [{**vars(each), "options": dict(each.options)} for each in self.methods],
            "metrics": [{**vars(each), "options": dict(each.options)} for each in self.metrics],
            "summary": [each.to_dict() for each in self.summaries],
            "answers": [each.to_dict() for each in answer_summaries(*given)],
            "agreements": [each.to_dict() for each in judge_agreements(*given)],
            "costs": {name: vars(cost).copy() for name, cost in self.costs.items()},
            "judges": {name: dict(counts) for name, counts in self.judges.items()},
            "records": [record.to_dict() for record in self.records],
        }

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return view("evaluation")(self)
