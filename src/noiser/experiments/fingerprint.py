"""A run's fingerprint: everything that its numbers depend on. Also hashes of it, and the differences between two of them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noiser.registry import PERMUTED

if TYPE_CHECKING:
    from noiser.evaluation.spec import EvaluatedMethod, EvaluatedMetric
    from noiser.experiments.plan import Plan
    from noiser.judges.protocol import Judge

NUMBERS = 1
"""Goes up whenever the engine, the masks or the bookkeeping would give other numbers for the same plan."""


def stable_hash(*values: Any) -> str:
    """A hash of plain values: 32 hexadecimal digits, the same on every machine."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def trial_key(sample_hash: str, spec_hash: str) -> str:
    """The key of one trial: a hash of two hashes. Cheap, because a folder has many trials."""
    return hashlib.blake2b(f"{sample_hash} {spec_hash}".encode(), digest_size=16).hexdigest()


def make_fingerprint(
    plan: "Plan", models: Mapping[str, Mapping[str, Any]], data: Mapping[str, Mapping[str, Any]], judges: "Sequence[Judge] | None" = None
) -> dict[str, Any]:
    """Everything that the run's tables depend on.

    That is: the plan with all options, the versions of methods and metrics, the models (revision, dtype,
    what their chat templates are given), the data (SHA-256) and
    the judges.
    """
    return {
        "numbers": NUMBERS,
        "seed": plan.seed,
        "models": {label: dict(facts) for label, facts in models.items()},
        "data": {label: dict(facts) for label, facts in data.items()},
        "methods": {row.label: method_fingerprint(row, plan.rows) for row in plan.rows},
        "metrics": {column.label: metric_fingerprint(column) for column in plan.columns(judges)},
    }


def method_fingerprint(row: "EvaluatedMethod", rows: "Sequence[EvaluatedMethod]") -> dict[str, Any]:
    """A method with its version and its identifying options. A permuted row has those of the row that it permutes."""
    if row.spec is None:
        permuted = next(other for other in rows if other.label == row.permutes)
        return {"method": PERMUTED, "of": method_fingerprint(permuted, rows)}
    return {"method": row.method, "version": row.spec.method.version, "options": row.spec.method.identifying(row.options)}


def metric_fingerprint(column: "EvaluatedMetric") -> dict[str, Any]:
    """A metric with its version, its options and the judge that it asks."""
    metric = {"metric": column.metric, "version": column.spec.metric.version, "options": column.spec.metric.identifying(column.options)}
    return metric | ({"judge": dict(column.judge_client.identity)} if column.judge_client is not None else {})


def display_settings(plan: "Plan") -> dict[str, Any]:
    """What tables need and no number depends on: which rows are controls, and how to read each metric."""
    metrics = {
        column.label: {"better": column.better, "relative": column.relative} | ({"judge": column.judge} if column.judge else {})
        for column in plan.columns()
    }
    return {"controls": [row.label for row in plan.rows if row.control], "metrics": metrics}


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """One line for each value that differs: `data.known.limit: 100 -> 50`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            inner = f"{path}.{name}" if path else str(name)
            if name not in after:
                yield f"{inner}: {_short_json(before[name])} -> not there"
            elif name not in before:
                yield f"{inner}: not there -> {_short_json(after[name])}"
            else:
                yield from differences(before[name], after[name], inner)
        if set(before) == set(after) and list(before) != list(after) and path == "methods":
            yield f"{path}: order {', '.join(before)} -> {', '.join(after)}"
    elif before != after:
        yield f"{path}: {_short_json(before)} -> {_short_json(after)}"


def _short_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."
