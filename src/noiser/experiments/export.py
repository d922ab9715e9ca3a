"""A run's records as a flat table, for other programs."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noiser.errors import OptionError, RunError
from noiser.experiments.folder import OK, RecordIndex, RunFolder
from noiser.experiments.trials import ATTRIBUTION, VALUE, Work, row_status
from noiser.storage import write_file

FORMS = ("parquet", "csv", "jsonl")
WHAT = ("values", "scores")
COLUMNS = {
    "values": {"model": str, "data": str, "sample": str, "group": str, "method": str, "metric": str, "status": str, "value": float,
               "message": str, "also": str},
    "scores": {"model": str, "data": str, "sample": str, "group": str, "method": str, "target": str, "step": int, "position": int,
               "token": str, "score": float, "seconds": float},
}  # fmt: skip
"""`values`: a row a trial, missing ones among them; `also` is JSON, the metric's further numbers. `scores`: a row for each token,
each explained target and each method."""


def export(folder: RunFolder, what: str, form: str, path: Path) -> int:
    """Write the table to a file, and return how many rows it has. Raises OptionError where pyarrow is missing for Parquet, and
    RunError where the file cannot be written."""
    found, work = RecordIndex(folder), Work(folder)
    rows = list(_values(work, found) if what == "values" else _scores(work, found))
    write = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}[form]
    try:
        write_file(path, write(rows, what))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    return len(rows)


def _values(work: Work, found: RecordIndex) -> Iterator[dict[str, Any]]:
    for part in work.parts:
        for row in part.rows or ():
            named = {"model": part.model, "data": part.data, "sample": row["id"], "group": row["group"]}
            for _, (kind, method, metric) in part.trials if not row["kept"] else ():
                if kind == VALUE:
                    said = {"status": row_status(row), "value": None, "message": row["reason"], "also": None}
                    yield {**named, "method": method, "metric": metric, **said}
    for sample in work.samples():
        for trial in sample.trials:
            if trial.kind == VALUE:
                record = found.records.get(trial.key, {"status": "missing"})
                also = json.dumps(record["also"], allow_nan=False) if record.get("also") else None
                said = {"status": record["status"], "value": record.get("value"), "message": record.get("message", ""), "also": also}
                named = {"model": sample.model, "data": sample.data, "sample": sample.id, "group": sample.group}
                yield {**named, "method": trial.method, "metric": trial.metric, **said}


def _scores(work: Work, found: RecordIndex) -> Iterator[dict[str, Any]]:
    for sample in work.samples():
        tokens = found.records.get(sample.key, {}).get("tokens", ())
        for trial in sample.trials:
            record = found.records.get(trial.key) if trial.kind == ATTRIBUTION else None
            if record is None or record["status"] != OK:
                continue
            named = {"model": sample.model, "data": sample.data, "sample": sample.id, "group": sample.group, "method": trial.method}
            for step, (scores, target) in enumerate(zip(record["scores"], record["targets"], strict=True)):
                said = {**named, "target": "".join(target["tokens"]), "step": step}
                for position, score in enumerate(scores[: target["context"] or len(scores)]):
                    own = {"position": position, "token": tokens[position] if position < len(tokens) else None, "score": score}
                    yield {**said, **own, "seconds": record["cost"]["seconds"]}


def _parquet(rows: list[dict[str, Any]], what: str) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise OptionError("Parquet needs pyarrow: pip install 'noiser[parquet]'; or export --to csv or jsonl") from error
    kinds = {str: pa.string(), float: pa.float64(), int: pa.int64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS[what].items()])
    printable = [{name: _printable(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(printable, schema=schema), file)
    return file.getvalue()


def _csv(rows: list[dict[str, Any]], what: str) -> bytes:
    """Texts that a spreadsheet would run as a formula get an apostrophe in front."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(COLUMNS[what]))
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _harmless(_printable(value)) if isinstance(value, str) else value for name, value in row.items()})
    return file.getvalue().encode()


def _printable(text: str) -> str:
    """Lone surrogates, which no file can hold, as their escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _harmless(text: str) -> str:
    return f"'{text}" if text.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") and text.strip() else text


def _jsonl(rows: list[dict[str, Any]], what: str) -> bytes:  # noqa: ARG001  (the three have one signature)
    return b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
