"""What a run's numbers depend on, written out; hashes of it; and what differs between two of them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noiser.evaluation.spec import PERMUTED, EvaluatedMethod, EvaluatedMetric
from noiser.experiments.plan import Plan
from noiser.judges.protocol import Judge

NUMBERS = 1
"""Raised whenever the engine, the masks or the bookkeeping would give other numbers for the same plan."""


def key(*parts: Any) -> str:
    """A hash of plain values: 32 hexadecimal digits, the same on every machine."""
    said = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def trial_key(sample: str, asked: str) -> str:
    """A hash of the two hashes that a trial is made of; cheap, for a folder has many."""
    return hashlib.blake2b(f"{sample} {asked}".encode(), digest_size=16).hexdigest()


def identity(
    plan: Plan, models: Mapping[str, Mapping[str, Any]], data: Mapping[str, Mapping[str, Any]], judges: Sequence[Judge] | None = None
) -> dict[str, Any]:
    """Everything that the run's tables depend on: the plan with all options in full, the versions of what computes them, and
    what is known of the models (revision, dtype), of the data (SHA-256) and of the judges."""
    rows = plan.rows()
    return {
        "numbers": NUMBERS,
        "seed": plan.seed,
        "models": {label: dict(each) for label, each in models.items()},
        "data": {label: dict(each) for label, each in data.items()},
        "methods": {row.label: row_identity(row, rows) for row in rows},
        "metrics": {column.label: column_identity(column) for column in plan.columns(judges)},
    }


def shown(plan: Plan) -> dict[str, Any]:
    """What tables have to know and no number depends on: which rows are controls, and how a metric is read."""
    gauges = {
        column.label: {"better": column.better, "relative": column.relative} | ({"judge": column.judge} if column.judge else {})
        for column in plan.columns()
    }
    return {"controls": [row.label for row in plan.rows() if row.control], "metrics": gauges}


def row_identity(row: EvaluatedMethod, rows: Sequence[EvaluatedMethod]) -> dict[str, Any]:
    """A method with its version and options; of a permuted row those of what it permutes."""
    if row.spec is None:
        of = next(each for each in rows if each.label == row.permutes)
        return {"method": PERMUTED, "of": row_identity(of, rows)}
    return {"method": row.method, "version": row.spec.method.version, "options": dict(row.options)}


def column_identity(column: EvaluatedMetric) -> dict[str, Any]:
    """A metric with its version and options, and whom it asks."""
    own = {"metric": column.metric, "version": column.spec.metric.version, "options": dict(column.options)}
    return own | ({"judge": dict(column.judge_client.identity)} if column.judge_client is not None else {})


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """One line for each value that is not the same: `data.known.limit: 100 -> 50`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            here = f"{where}.{name}" if where else str(name)
            if name not in after:
                yield f"{here}: {_brief(before[name])} -> not there"
            elif name not in before:
                yield f"{here}: not there -> {_brief(after[name])}"
            else:
                yield from differences(before[name], after[name], here)
        if set(before) == set(after) and list(before) != list(after) and where == "methods":
            yield f"{where}: order {', '.join(before)} -> {', '.join(after)}"
    elif before != after:
        yield f"{where}: {_brief(before)} -> {_brief(after)}"


def _brief(value: Any) -> str:
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 100 else f"{said[:97]}..."
