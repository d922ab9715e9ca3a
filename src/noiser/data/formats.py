"""The formats of the published sets: bytes in, rows out. Raises OptionError at the first row that is not as it should be."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from noiser.data.rows import Row
from noiser.errors import OptionError

BOM = b"\xef\xbb\xbf"
KNOWN = ("known_id", "prompt", "subject", "attribute", "relation_id")
LONGRA = ("id", "prompt", "target", "relative", "type")


def known(raw: bytes) -> list[Row]:
    """A JSON list of objects with the fields KNOWN, and others. The target is the attribute, the group the relation."""
    found = []
    for where, row in _objects(raw, "known_id"):
        name = _name(where, row, "known_id")
        prompt, _, target, relation = (_text(where, row, field) for field in KNOWN[1:])
        found.append(Row(name, prompt, target, relation, _rest(row, "known_id", "prompt", "attribute", "relation_id")))
    return unique(found)


def longra(raw: bytes) -> list[Row]:
    """A JSON list of objects with the fields LONGRA, and others. The group is the template: see `_by_template`."""
    found = []
    for where, row in _objects(raw, "id"):
        name = _name(where, row, "id")
        prompt, target, relative, kind = (_text(where, row, field) for field in LONGRA[1:])
        fields = {**_rest(row, "id", "prompt", "target"), "template": _template(prompt, relative)}
        found.append(Row(name, prompt, target, kind, fields))
    return unique(_by_template(found))


def wikibio(raw: bytes) -> list[Row]:
    """A prompt a line, its number as its id; or a JSON list of objects with `prompt`, or with `wiki_bio_text`, of which the
    first sentence is the prompt. No targets, no groups."""
    if raw.removeprefix(BOM).lstrip()[:1] == b"[":
        return unique([_biography(where, row) for where, row in _objects(raw, "wiki_bio_test_idx")])
    lines = raw.removeprefix(BOM).split(b"\n")
    return [Row(str(number), _decoded(number, line)) for number, line in enumerate(lines, 1) if line.strip()]


def unique(rows: Iterable[Row]) -> list[Row]:
    """The rows. Raises OptionError where two have the same id."""
    found = list(rows)
    twice = [name for name, count in Counter(row.id for row in found).items() if count > 1]
    if twice:
        raise OptionError(f"each row needs an id of its own; {', '.join(twice[:3])} came twice")
    return found


def strict_json(text: str | bytes) -> Any:
    """What the JSON says. Raises ValueError for what is none, NaN and infinity among it, and for what is nested too deep."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def printable(name: Any) -> str:
    """As text that can be written: lone surrogates as their escapes."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _objects(raw: bytes, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Each object of the list, and how to name it in an error: by its place from 1 on, and by what it calls itself."""
    try:
        rows = strict_json(raw.removeprefix(BOM))
    except ValueError as error:
        raise OptionError(f"it is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise OptionError(f"wanted a list of rows; got {type(rows).__name__}")
    named = []
    for place, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise OptionError(f"row {place} is not an object but {type(row).__name__}")
        named.append((f"row {place} ({key} {printable(row[key])[:40]})" if key in row else f"row {place}", row))
    return named


def _text(where: str, row: Mapping[str, Any], field: str) -> str:
    if field not in row:
        raise OptionError(f"{where} has no {field}")
    if not isinstance(row[field], str) or not row[field].strip():
        raise OptionError(f"{where}: {field} must be text that is not blank; got {printable(row[field])[:80]!r}")
    return row[field]


def _name(where: str, row: Mapping[str, Any], field: str) -> str:
    if field not in row:
        raise OptionError(f"{where} has no {field}")
    if not isinstance(row[field], int | str) or isinstance(row[field], bool):
        raise OptionError(f"{where}: {field} must be a number or text; got {printable(row[field])[:80]!r}")
    return printable(row[field])


def _rest(row: Mapping[str, Any], *known: str) -> dict[str, Any]:
    return {field: value for field, value in row.items() if field not in known}


def _template(prompt: str, relative: str) -> str | None:
    """The prompt with a gap where its relative stands as a word; None where it stands nowhere."""
    made, count = re.subn(rf"(?<!\w){re.escape(relative)}(?!\w)", "{}", prompt)
    return made if count else None


def _by_template(rows: Sequence[Row]) -> list[Row]:
    """The rows with groups: the type where all its rows have one template (as in the published set), else type#1, type#2, ..."""
    templates: dict[str | None, list[str]] = defaultdict(list)
    for row in rows:
        if row.fields["template"] not in (None, *templates[row.group]):
            templates[row.group].append(row.fields["template"])
    return [
        replace(row, group=f"{row.group}#{own.index(row.fields['template']) + 1}")
        if len(own := templates[row.group]) > 1 and row.fields["template"] in own
        else row
        for row in rows
    ]


def _biography(where: str, row: Mapping[str, Any]) -> Row:
    field = "prompt" if "prompt" in row else "wiki_bio_text"
    text = _text(where, row, field)
    name = next((_name(where, row, key) for key in ("id", "wiki_bio_test_idx") if key in row), where.split()[1])
    rest = _rest(row, "prompt", "wiki_bio_text", "id", "wiki_bio_test_idx")
    return Row(name, text if field == "prompt" else _first_sentence(text), fields=rest)


def _first_sentence(text: str) -> str:
    from noiser.text.units import sentences  # compiled libraries, wanted here only

    start, stop = next(sentences(text))
    return text[start:stop]


def _decoded(number: int, line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise OptionError(f"row {number} is not UTF-8: byte 0x{line[error.start]:02x} at {error.start}") from error


FIELDS = ("prompt", "target", "id", "group")


def jsonl(raw: bytes) -> list[Row]:
    """A row for each line that is not blank, named by its id or else the line's number; only a newline ends a line.

    `prompt` is text, token ids or the messages of a chat; `target` text; `id` and `group` names; whatever else there is goes
    into `fields`. A line that does not fit is a row with an `error`. Raises OptionError where there is no line at all, or an
    id comes twice.
    """
    lines = [(number, line) for number, line in enumerate(raw.removeprefix(BOM).split(b"\n"), 1) if line.strip()]
    if not lines:
        raise OptionError("there are no rows in it")
    found = [(number, _row(number, line)) for number, line in lines]
    named = unique(row for _, row in found if row.id)
    taken = {row.id for row in named}
    return [row if row.id else _called(row, _free(str(number), taken)) for number, row in found]


def _row(number: int, line: bytes) -> Row:
    """The line's row, its id empty where it has none."""
    try:
        found = strict_json(line.decode())
    except UnicodeDecodeError as error:
        return _bad(f"line {number}: the line is not UTF-8: byte 0x{line[error.start]:02x} at {error.start}")
    except ValueError as error:
        return _bad(f"line {number} is not JSON: {error}")
    shown = printable(found)[:80]
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str | list):
        return _bad(f'line {number} wants an object with a "prompt" that is text, ids or messages; got {shown}')
    own = {field: found[field] for field in FIELDS if found.get(field) is not None}
    name, group = (printable(own[field]) if field in own else None for field in ("id", "group"))
    if not isinstance(own.get("target"), str | None):
        return _bad(f'line {number}: "target" must be text; got {printable(own["target"])[:80]}', name or "", group)
    rest = {field: value for field, value in found.items() if field not in FIELDS}
    return Row(name or "", own["prompt"], own.get("target"), group, rest)


def _bad(error: str, name: str = "", group: str | None = None) -> Row:
    return Row(name, "", group=group, error=error)


def _called(row: Row, name: str) -> Row:
    values: dict[str, Any] = {**vars(row), "id": name}
    return Row(**values)


def _free(wanted: str, taken: set[str]) -> str:
    """The name, or where somebody has it already the name with as many primes as it takes."""
    while wanted in taken:
        wanted += "'"
    return wanted
