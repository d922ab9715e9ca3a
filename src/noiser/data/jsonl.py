"""A user's own rows: an object a line. A line that is none costs the others nothing."""

from typing import Any

from noiser.data.formats import BOM, printable, strict_json, unique
from noiser.data.rows import Row
from noiser.errors import OptionError

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
