"""Saved results, read back: the JSON of attributions, comparisons, evaluations and checkups becomes the objects that wrote it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from noiser.errors import OptionError
from noiser.results.attribution import Attribution, Comparison, Cost, Curve, Target
from noiser.results.evaluation import Evaluation
from noiser.results.interactions import Interactions
from noiser.results.records import MethodRow, MetricColumn, Number, Record, Row, Summary
from noiser.results.sanity import Checkup, MetricCheckup, MetricVerdict, Verdict
from noiser.storage import printable, strict_json
from noiser.text.prompt import Prompt, Turn
from noiser.text.spans import read_spans
from noiser.text.units import Units

T = TypeVar("T")


@dataclass(frozen=True)
class FailedPrompt:
    """A prompt of `noiser attribute --file` that could not be explained."""

    prompt: str
    error: str
    """The class of the error."""
    message: str

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values, in the shape of the command line's JSON (schema 1)."""
        return {"schema": 1, "prompt": {"text": self.prompt}, "error": {"class": self.error, "message": self.message}}


Result = Attribution | Comparison | Interactions | Evaluation | Checkup | MetricCheckup | FailedPrompt


@dataclass(frozen=True)
class Saved:
    """A result and its place in the file it was read from."""

    place: Mapping[str, Any]
    """`line` or `row`, and `id`, of a prompt that came from a file. Empty for any other result."""
    result: Result

    @property
    def name(self) -> str:
        """`line 3`, `row 3, q17`. Empty without a place."""
        return ", ".join(f"{key} {value}" if key != "id" else printable(value) for key, value in self.place.items())


def read(path: str | Path) -> Result | list[Result]:
    """Read results that noiser saved as JSON: by `to_json()`, by `--format json` or by `--format jsonl`.

    Returns an Attribution, a Comparison, Interactions, an Evaluation, a Checkup or a MetricCheckup. A file with several lines, or one
    whose name ends in .jsonl or .ndjson, gives a list; a prompt that could not be explained is a FailedPrompt in it. The objects are
    equal to those that were saved, scores to the last bit. A page (HTML) or a figure is not read back.

    Raises OptionError for a file that does not exist, is damaged, or holds something else, and says what it is.
    """
    found = read_saved(path)
    is_list = len(found) > 1 or Path(path).suffix.lower() in (".jsonl", ".ndjson")
    return [each.result for each in found] if is_list else found[0].result


def read_saved(path: str | Path) -> list[Saved]:
    """As `read`, always a list, each result with its place. Raises OptionError as `read` does."""
    path = Path(path)
    if path.is_dir():
        raise OptionError(f"{path} is a folder; a saved result is a file. The tables of a run's folder: noiser report {path}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return [_saved(record, where) for where, record in _records(content)]
    except OptionError as error:
        raise OptionError(f"{path.name}: {error}") from error


def _records(content: bytes) -> Iterator[tuple[str, Any]]:
    """Each JSON value of the file, and where it stands: one value, a list of values, or a value on each line."""
    body = _text(content)
    try:
        whole = strict_json(body)
    except ValueError:
        whole = None
    if whole is not None:
        values = whole if isinstance(whole, list) and whole and all(isinstance(each, dict) for each in whole) else [whole]
        yield from ((f"row {number}" if len(values) > 1 else "", value) for number, value in enumerate(values, 1))
        return
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", strict_json(line)
            except ValueError as error:
                raise OptionError(f"line {number} is not JSON: {error}. A saved result is JSON") from error


def _text(content: bytes) -> bytes:
    """The file in UTF-8. Raises OptionError for what is no text, and for a page."""
    for mark, codec in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if content.startswith(mark):
            content = content.removeprefix(mark).decode(codec, "replace").encode()
    kinds = ((b"\x1f\x8b", "compressed with gzip: unpack it first"), (b"\x89PNG", "a picture (PNG)"), (b"<svg", "a picture (SVG)"))
    kinds = (*kinds, (b"<?xml", "a picture (SVG), or other XML"), (b"<!doctype html", "a page (HTML)"), (b"%PDF", "a picture (PDF)"))
    for magic, kind in kinds:
        if content[:60].lstrip().lower().startswith(magic.lower()):
            raise OptionError(f"it is {kind}; a saved result is JSON, written with --format json or to_json()")
    if not content.strip():
        raise OptionError("it is empty; a saved result is JSON, written with --format json or to_json()")
    if b"\0" in content:
        raise OptionError("it is binary; a saved result is JSON, written with --format json or to_json()")
    return content


_OTHERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("sum", "record"), "a record of a run. The tables of its folder: noiser report FOLDER"),
    (("gold", "kept", "judges"), "a result of noiser answer, which holds no scores of tokens and cannot be shown again"),
    (("planned", "parts"), "the output of noiser status"),
    (("cells", "trials"), "an estimate of noiser run --dry-run"),
    (("prompt",), "a row with a prompt: explain it with noiser attribute --file"),
    (("messages",), "a chat: explain it with noiser attribute --messages"),
)


def _saved(record: Any, where: str) -> Saved:
    """The result of one JSON value. Raises OptionError for a value that is no result of noiser, or a damaged one."""
    before = f"{where}: " if where else ""
    build = _builder(record) if isinstance(record, dict) else None
    if build is None:
        raise OptionError(f"{before}it is {_kind(record)}, no saved result of noiser")
    if record.get("schema") != 1:
        raise OptionError(f"{before}it has schema {printable(record.get('schema'))[:20]}; this noiser reads schema 1")
    try:
        return Saved({key: record[key] for key in ("line", "row", "id") if key in record}, build(record))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise OptionError(f"{before}it is a damaged result of noiser: {reason}") from error


def _builder(record: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Result] | None:
    if "schema" not in record:
        return None
    for names, build in _BUILDERS:
        if all(name in record for name in names):
            return build
    return None


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if not isinstance(value, dict):
        return f"JSON of another kind ({type(value).__name__})"
    for names, kind in _OTHERS:
        if all(name in value for name in names):
            return kind
    return f"a JSON object with {', '.join(map(printable, value))[:80] or 'nothing in it'}"


# Builders: plain values in, objects out


def _attribution(record: Mapping[str, Any]) -> Attribution:
    prompt, targets = _prompt(record["prompt"]), tuple(map(_target, record["targets"]))
    if not targets:
        raise ValueError("it has no targets")
    shape = len(targets), len(prompt)
    stderr = None if record.get("stderr") is None else _matrix("stderr", record["stderr"], shape)
    if stderr is not None and (stderr < 0).any():
        raise ValueError("a standard error is negative")
    return Attribution(
        scores=_matrix("scores", record["scores"], shape),
        prompt=prompt,
        targets=targets,
        method=_word(record["method"]),
        options=_mapping(record["options"]),
        model=_word(record["model"]),
        revision=_word(record["revision"]),
        seed=record["seed"],
        cost=_exact(Cost, record["cost"]),
        notes=_mapping(record["notes"]),
        unit=_word(record["unit"]),
        given=record["prompt"]["given"],
        curves=tuple(_curve(curve, len(prompt)) for curve in record.get("curves", ())),
        label=_word(record.get("label", "")),
        stderr=stderr,
        dof=_dof(record.get("dof"), len(targets)),
    )


def _matrix(name: str, rows: Any, shape: tuple[int, int]) -> np.ndarray:
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        raise ValueError(f"its {name} are not {shape[0]} rows of {shape[1]} numbers")
    return np.array([[_number(value) for value in row] for row in rows], dtype=np.float64)


def _dof(values: Any, count: int) -> tuple[int | None, ...] | None:
    if values is None:
        return None
    if len(values) != count or any(value is not None and (not isinstance(value, int) or value < 1) for value in values):
        raise ValueError(f"its dof are not {count} whole numbers from 1")
    return tuple(values)


def _prompt(record: Mapping[str, Any]) -> Prompt:
    tokens, ids = tuple(map(_word, record["tokens"])), tuple(map(int, record["input_ids"]))
    special = tuple(map(bool, record.get("special") or [False] * len(ids)))
    offsets = tuple((int(start), int(stop)) for start, stop in record.get("offsets", ()))
    turns = tuple(Turn(_word(turn["role"]), tuple(map(int, turn["tokens"]))) for turn in record.get("turns", ()))
    spans = read_spans(record.get("spans", ()), str(record["text"]))
    if not len(tokens) == len(ids) == len(special) == len(offsets or ids):
        raise ValueError("its prompt has not one token, id and offset for each place")
    if any(not 0 <= token < len(ids) for turn in turns for token in turn.tokens) or not 0 < record["given"] <= len(ids):
        raise ValueError("its prompt names tokens that it does not have")
    return Prompt(_word(record["text"]), ids, tokens, special, offsets, turns, spans)


def _target(record: Mapping[str, Any]) -> Target:
    foil = record["foil"] and _target(record["foil"])
    plain = {"token_ids": tuple(record["token_ids"]), "tokens": tuple(map(_word, record["tokens"])), "foil": foil}
    target = _exact(Target, {**record, **plain})
    _number(target.prob)
    return target


def _curve(record: Mapping[str, Any], length: int) -> Curve:
    curve = _exact(Curve, {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})
    if not len(curve.counts) == len(curve.removed) == len(curve.kept) or any(not 0 <= token < length for token in curve.order):
        raise ValueError("a curve does not fit its prompt")
    return curve


def _comparison(record: Mapping[str, Any]) -> Comparison:
    attributions = tuple(map(_attribution, record["attributions"]))
    if len({(each.prompt.input_ids, len(each.targets)) for each in attributions}) != 1:
        raise ValueError("its attributions are not of one prompt and the same targets")
    return Comparison(attributions, {_word(name): _word(message) for name, message in record["failures"].items()})


def _interactions(record: Mapping[str, Any]) -> Interactions:
    prompt, texts = _prompt(record["prompt"]), tuple(map(_word, record["units"]["texts"]))
    of = tuple(None if unit is None else int(unit) for unit in record["units"]["of"])
    if len(of) != len(prompt) or set(of) - {None} != set(range(len(texts))):
        raise ValueError("its units are not those of its prompt")
    values = np.array([[_number(value) for value in row] for row in record["interactions"]], dtype=np.float64)
    shapley = np.array([_number(value) for value in record["shapley"]], dtype=np.float64)
    if values.shape != (len(texts), len(texts)) or shapley.shape != (len(texts),):
        raise ValueError(f"its interactions are not those of {len(texts)} units")
    return Interactions(
        values=values,
        shapley=shapley,
        units=Units(_word(record["unit"]), of, texts),
        prompt=prompt,
        target=_target(record["target"]),
        model=_word(record["model"]),
        revision=_word(record["revision"]),
        options=_mapping(record["options"]),
        seed=record["seed"],
        cost=_exact(Cost, record["cost"]),
        notes=_mapping(record["notes"]),
    )


def _evaluation(record: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        model=_word(record["model"]),
        revision=_word(record["revision"]),
        seed=record["seed"],
        methods=tuple(_exact(MethodRow, row) for row in record["methods"]),
        metrics=tuple(_exact(MetricColumn, column) for column in record["metrics"]),
        samples=record["samples"],
        records=tuple(map(_record, record["records"])),
        summaries=tuple(map(_summary, record["summary"])),
        costs={name: _exact(Cost, cost) for name, cost in record["costs"].items()},
        judges={name: _mapping(counts) for name, counts in record["judges"].items()},
    )


def _record(plain: Mapping[str, Any]) -> Record:
    values = {name: value for name, value in plain.items() if name != "also"}
    return _exact(Record, {**values, "steps": tuple(map(_mapping, plain["steps"])), "extra": _mapping(plain["also"])})


def _summary(plain: Mapping[str, Any]) -> Summary:
    rows = tuple(_exact(Row, {**row, "mean": _exact(Number, row["mean"]), **_optional(row)}) for row in plain["rows"])
    return _exact(Summary, {**plain, "rows": rows, "differences": tuple(plain["differences"]), "remarks": tuple(plain["remarks"])})


def _optional(row: Mapping[str, Any]) -> dict[str, Number | None]:
    """The numbers that a row may lack. Evaluations without random orders have no `win_rate`."""
    given = {"log_ratio": row["log_ratio"], "win_rate": row.get("win_rate")}
    return {name: None if value is None else _exact(Number, value) for name, value in given.items()}


def _checkup(record: Mapping[str, Any]) -> Checkup:
    verdicts = tuple(_exact(Verdict, verdict) for verdict in record["verdicts"])
    checks = {_word(name): _word(what) for name, what in record["checks"].items()}
    return Checkup(_word(record["model"]), _word(record["revision"]), checks, tuple(map(_word, record["methods"])), verdicts)


def _metric_checkup(record: Mapping[str, Any]) -> MetricCheckup:
    verdicts = tuple(
        MetricVerdict(
            metric=_word(each["metric"]),
            ladder=_exact(Number, each["ladder"]),
            ends=_exact(Number, each["ends"]),
            prompts=int(_number(each["prompts"])),
            circuits=dict(_mapping(each["circuits"])),
            reason=_word(each["reason"]),
        )
        for each in record["verdicts"]
    )
    given = {name: value for name, value in record.items() if name != "schema"}
    return _exact(MetricCheckup, {**given, "verdicts": verdicts})


def _failed(record: Mapping[str, Any]) -> FailedPrompt:
    return FailedPrompt(_word(record["prompt"]["text"]), _word(record["error"]["class"]), _word(record["error"]["message"]))


def _exact(kind: type[T], values: Mapping[str, Any]) -> T:
    """An object with these fields. Raises KeyError or ValueError for a field too few or too many, so that nothing is lost."""
    names = {each.name for each in fields(kind)}  # pyright: ignore[reportArgumentType]  (all kinds are dataclasses)
    missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
    if missing:
        raise KeyError(missing[0])
    if unknown:
        raise ValueError(f"a {kind.__name__} has no {', '.join(map(printable, unknown))}")
    return kind(**values)


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{printable(value)[:40]!r} stands where text should")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{printable(value)[:40]!r} stands where a number should")
    return float(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{printable(value)[:40]!r} stands where names with values should")
    return value


_BUILDERS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Result]], ...] = (
    (("attributions", "agreement", "failures"), _comparison),
    (("prompt", "targets", "scores"), _attribution),
    (("prompt", "units", "interactions"), _interactions),
    (("prompt", "error"), _failed),
    (("records", "summary", "metrics"), _evaluation),
    (("verdicts", "checks"), _checkup),
    (("verdicts", "circuits", "aurocs"), _metric_checkup),
)
"""The fields by which a result is known, and what builds it."""
