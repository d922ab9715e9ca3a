"""`noiser export`: a run's records as a flat table for other programs."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from noiser.errors import RunError, require_extra
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.schema import ATTRIBUTION, OK, SAMPLE, VALUE
from noiser.experiments.trials import RunContents, Sample, row_status
from noiser.storage import printable, write_file

FORMS = ("parquet", "csv", "jsonl")
WHAT = ("values", "scores")
COLUMNS = {
    "values": {"model": str, "data": str, "sample": str, "group": str, "method": str, "metric": str, "status": str, "value": float,
               "message": str, "also": str},
    "scores": {"model": str, "data": str, "sample": str, "group": str, "method": str, "target": str, "step": int, "position": int,
               "token": str, "score": float, "stderr": float, "seconds": float},
}  # fmt: skip
"""`values`: one row for each trial, missing ones included; `also` is JSON with the metric's further numbers. `scores`: one row for
each token, explained target and method; `stderr` is empty for methods that draw nothing at random."""
TableRow = dict[str, Any]


def export(folder: RunFolder, what: str, form: str, path: Path) -> int:
    """Write the table to a file, and return its number of rows.

    Raises MissingExtraError if Parquet is wanted without pyarrow, and RunError if the file cannot be written.
    """
    index, contents = RecordIndex(folder), RunContents(folder)
    rows = list(_values(contents, index) if what == "values" else _scores(contents, index))
    content = _ENCODERS[form](rows, what)
    try:
        write_file(path, content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    return len(rows)


def _values(contents: RunContents, index: RecordIndex) -> Iterator[TableRow]:
    for cell in contents.cells:
        for row in cell.dropped:
            sample = {"model": cell.model, "data": cell.data, "sample": row["id"], "group": row["group"]}
            result = {"status": row_status(row), "value": None, "message": row["reason"], "also": None}
            for spec in cell.specs:
                if spec.kind == VALUE:
                    yield {**sample, "method": spec.method, "metric": spec.metric, **result}
    for sample in contents.samples():
        for trial in sample.trials:
            if trial.kind == VALUE:
                record = index.find(trial.key, trial.kind) or {"status": "missing"}
                also = json.dumps(record["also"], allow_nan=False) if record.get("also") else None
                result = {"status": record["status"], "value": record.get("value"), "message": record.get("message", ""), "also": also}
                yield {**_sample_columns(sample), "method": trial.method, "metric": trial.metric, **result}


def _scores(contents: RunContents, index: RecordIndex) -> Iterator[TableRow]:
    for sample in contents.samples():
        tokens = (index.find(sample.key, SAMPLE) or {}).get("tokens", ())
        for trial in sample.trials:
            record = index.find(trial.key, trial.kind) if trial.kind == ATTRIBUTION else None
            if record is None or record["status"] != OK:
                continue
            columns = {**_sample_columns(sample), "method": trial.method}
            for step, (scores, target) in enumerate(zip(record["scores"], record["targets"], strict=True)):
                explained = {**columns, "target": "".join(target["tokens"]), "step": step}
                errors = record["stderr"][step] if "stderr" in record else [None] * len(scores)
                for position, score in enumerate(scores[: target["context"] or len(scores)]):
                    token = tokens[position] if position < len(tokens) else None
                    row = {"position": position, "token": token, "score": score, "stderr": errors[position]}
                    yield {**explained, **row, "seconds": record["cost"]["seconds"]}


def _sample_columns(sample: Sample) -> TableRow:
    return {"model": sample.model, "data": sample.data, "sample": sample.id, "group": sample.group}


def _parquet(rows: list[TableRow], what: str) -> bytes:
    require_extra("parquet", "--to parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), float: pa.float64(), int: pa.int64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS[what].items()])
    texts = [{name: printable(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(texts, schema=schema), file)
    return file.getvalue()


def _csv(rows: list[TableRow], what: str) -> bytes:
    """CSV in UTF-8. A text that a spreadsheet would run as a formula gets an apostrophe in front."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(COLUMNS[what]))
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _harmless(printable(value)) if isinstance(value, str) else value for name, value in row.items()})
    return file.getvalue().encode()


def _harmless(text: str) -> str:
    return f"'{text}" if text.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") and text.strip() else text


def _jsonl(rows: list[TableRow], _: str) -> bytes:
    return b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)


_ENCODERS: Mapping[str, Callable[[list[TableRow], str], bytes]] = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
