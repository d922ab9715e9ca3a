"""The shape of everything that a run folder holds. What is read from a folder has this shape, or it is damage.

A correct checksum says that a line is what somebody wrote, not that noiser wrote it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

from noiser.results.attribution import Cost, Target

ATTRIBUTION, VALUE, SAMPLE = "attribution", "value", "sample"
OK = "ok"
OTHER_ANSWER = "said otherwise"
NO_TARGET = "no target"
NONFINITE = "nonfinite"
OOM = "oom"
Check = Callable[[Any], bool]


def record_problem(record: Mapping[str, Any]) -> str:
    """What is wrong with a record of a run, as a sentence; empty if nothing is."""
    checks = _RECORDS.get(record["kind"]) if isinstance(record.get("kind"), str) else None
    if checks is None or not {"key", "status"} <= record.keys():
        return "it is no record of a run"
    if record["status"] == OK:
        checks = checks | _REQUIRED[record["kind"]]
        missing = _REQUIRED[record["kind"]].keys() - record.keys()
        if missing:
            return f"it has no {', '.join(sorted(missing))}"
    wrong = [name for name, check in checks.items() if name in record and not check(record[name])]
    if wrong:
        return f"its {', '.join(wrong)} has the wrong type"
    return _mismatch(record)


def _mismatch(record: Mapping[str, Any]) -> str:
    """What does not fit together in a record whose fields are right."""
    if record["kind"] == ATTRIBUTION and record["status"] == OK and len(record["scores"]) != len(record["targets"]):
        return "it has not one row of scores for each target"
    if record["kind"] == ATTRIBUTION and record["status"] == OK and not _fits_errors(record):
        return "its standard errors do not fit its scores"
    if record["kind"] == SAMPLE and any(name in record for name in _TOKEN_FIELDS):
        missing = [name for name in _TOKEN_FIELDS if name not in record]
        if missing:
            return f"it has no {', '.join(missing)}"
        lengths = {len(record[name]) for name in (*_TOKEN_FIELDS, "special") if name in record and name != "text"}
        if len(lengths) > 1:
            return "its tokens, ids and offsets differ in number"
    return ""


def _fits_errors(record: Mapping[str, Any]) -> bool:
    """Whether standard errors, if there are any, are one number from 0 for each score, with one number of degrees of freedom each row."""
    scores, stderr, dof = record["scores"], record.get("stderr"), record.get("dof")
    if stderr is not None and ([len(row) for row in stderr] != [len(row) for row in scores] or min(map(min, stderr)) < 0):
        return False
    return dof is None or (stderr is not None and len(dof) == len(scores) and 0 not in dof)


def run_problem(run: Mapping[str, Any]) -> str:
    """What is wrong with the content of run.json, as a sentence; empty if nothing is."""
    fingerprint, display = run.get("identity"), run.get("shown")
    if not isinstance(fingerprint, Mapping) or not isinstance(display, Mapping):
        return "it describes no run"
    wrong = [f"identity.{name}" for name, check in _FINGERPRINT.items() if not check(fingerprint.get(name))]
    if not wrong and not _is_display(display, fingerprint["metrics"]):
        wrong.append("shown")
    return f"its {', '.join(wrong)} has the wrong type" if wrong else ""


def screening_problem(screening: Mapping[str, Any]) -> str:
    """What is wrong with the content of a file in screened/, as a sentence; empty if nothing is."""
    rows = screening.get("rows")
    if not isinstance(rows, list):
        return "it lists no rows"
    wrong = next((index for index, row in enumerate(rows, 1) if not _is_row(row)), None)
    if wrong is not None:
        return f"its row {wrong} has the wrong type"
    return "two of its rows have one id" if len({row["id"] for row in rows}) < len(rows) else ""


# Plain values


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    """True for a number. It is finite and fits into a float64: `storage.decode` lets no other through."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _mapping_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _fields_of(kind: type, **checks: Check) -> Check:
    """The check for a mapping that becomes a dataclass."""
    required = {each.name for each in fields(kind) if each.default is MISSING}
    return lambda value: (
        isinstance(value, dict)
        and required <= value.keys() <= checks.keys()
        and all(check(value[name]) for name, check in checks.items() if name in value)
    )


_is_mapping = _mapping_of(lambda _: True)
_is_ids = _list_of(_is_count)
_is_texts = _list_of(_is_text)


# Records


def _is_table(value: Any) -> bool:
    """True for rows of finite numbers, all of one length."""
    if not _list_of(_list_of(_is_number))(value):
        return False
    return len({len(row) for row in value}) == 1


def _is_span(value: Any) -> bool:
    return _is_ids(value) and len(value) == 2


_TARGET: dict[str, Check] = {
    "token_ids": _is_ids,
    "tokens": _is_texts,
    "prob": _is_number,
    "rank": _is_count,
    "quantity": _is_text,
    "value": _optional(_is_number),
    "context": _is_count,
}
_is_foil = _fields_of(Target, **_TARGET, foil=lambda value: value is None)
_is_target = _fields_of(Target, **_TARGET, foil=_optional(_is_foil))
_is_cost = _fields_of(Cost, seconds=_is_number, forward_tokens=_is_count, backward_tokens=_is_count, peak_bytes=_is_count)


def _is_notes(value: Any) -> bool:
    """Notes are free, except for those that a report shows."""
    return isinstance(value, dict) and (_is_texts(value["warnings"]) if "warnings" in value else True)


_COMMON: dict[str, Check] = dict.fromkeys(("key", "kind", "status", "model", "data", "sample", "method", "message", "trace"), _is_text)
_RECORDS: Mapping[str, dict[str, Check]] = {
    VALUE: _COMMON | {"metric": _is_text, "value": _optional(_is_number), "steps": _list_of(_is_mapping), "also": _mapping_of(_is_number)},
    ATTRIBUTION: _COMMON | {"stderr": lambda value: _is_table(value), "dof": _list_of(_optional(_is_count))},
    SAMPLE: _COMMON
    | {
        "group": _optional(_is_text),
        "fields": _is_mapping,
        "text": _is_text,
        "input_ids": _is_ids,
        "tokens": _is_texts,
        "offsets": _list_of(_is_span),
        "special": _list_of(_is_flag),
        "cost": _optional(_is_cost),
    },
}
"""By the record's kind: the fields that readers use, and what they have to be."""
_REQUIRED: Mapping[str, dict[str, Check]] = {
    VALUE: {"value": _is_number},
    ATTRIBUTION: {"scores": _is_table, "targets": _list_of(_is_target), "unit": _is_text, "cost": _is_cost, "notes": _is_notes},
    SAMPLE: {"fields": _is_mapping},
}
"""The fields that a record of status `ok` must have."""
_TOKEN_FIELDS = ("text", "input_ids", "tokens", "offsets")


# run.json and screened/


def _is_model(value: Any) -> bool:
    return _is_mapping(value) and all(_optional(_is_text)(value.get(name)) for name in ("revision", "dtype", "attention"))


_DATA: dict[str, Check] = {
    "sha256": _is_text,
    "rows": _is_count,
    "kind": _is_text,
    "complete": _is_flag,
    "match": _is_text,
    "generate": _optional(_is_count),
    "limit": _optional(_is_count),
}


def _has(checks: Mapping[str, Check], optional: Collection[str] = ()) -> Check:
    return lambda value: (
        isinstance(value, dict) and all(check(value[name]) if name in value else name in optional for name, check in checks.items())
    )


_is_method = _has({"method": _is_text, "version": _is_count, "options": _is_mapping})


def _is_method_or_permutation(value: Any) -> bool:
    return _is_method(value["of"]) if isinstance(value, dict) and "of" in value and _is_text(value.get("method")) else _is_method(value)


_FINGERPRINT: Mapping[str, Check] = {
    "numbers": _is_count,
    "seed": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "models": _mapping_of(_is_model),
    "data": _mapping_of(_has(_DATA)),
    "methods": _mapping_of(_is_method_or_permutation),
    "metrics": _mapping_of(
        _has({"metric": _is_text, "version": _is_count, "options": _is_mapping, "judge": _is_mapping}, optional=("judge",))
    ),
}


def _is_display(display: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
    column = _has({"better": _is_text, "relative": _is_flag, "judge": _is_text}, optional=("judge",))
    columns = display.get("metrics")
    return (
        _is_texts(display.get("controls"))
        and _mapping_of(column)(columns)
        and columns is not None
        and columns.keys() == metrics.keys()
        and all(value.keys() <= {"better", "relative", "judge"} for value in columns.values())
    )


_is_screened_row = _has(
    {
        "id": _is_text,
        "group": _optional(_is_text),
        "kept": _is_flag,
        "said": _is_text,
        "prob": _is_number,
        "reason": _is_text,
        "target_ids": _optional(_is_ids),
        "fields": _is_mapping,
        "rendered": _is_text,
        "hash": _is_text,
    },
    optional=("rendered", "hash"),
)


def _is_row(value: Any) -> bool:
    return _is_screened_row(value) and (not value["kept"] or "hash" in value)
