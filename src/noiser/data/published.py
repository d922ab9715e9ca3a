"""Readers of the published formats: bytes in, rows out. They raise OptionError at the first row that is wrong."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from noiser.data.rows import Row
from noiser.errors import OptionError
from noiser.storage import printable, strict_json

BOM = b"\xef\xbb\xbf"
KNOWN = ("known_id", "prompt", "subject", "attribute", "relation_id")
LONGRA = ("id", "prompt", "target", "relative", "type")
MAX_DEPTH = 50
"""How deep a row may be nested. A run's records hold rows, and may be twice as deep."""


def known(content: bytes) -> list[Row]:
    """Known: a JSON list of objects with the fields KNOWN, and others. The attribute is the target, the relation the group."""
    rows = []
    for where, item in _read_objects(content, "known_id"):
        name = _read_id(where, item, "known_id")
        prompt, _, target, relation = (_read_text(where, item, field) for field in KNOWN[1:])
        rows.append(Row(name, prompt, target, relation, other_fields(item, "known_id", "prompt", "attribute", "relation_id")))
    return check_ids(rows)


def longra(content: bytes) -> list[Row]:
    """LongRA: a JSON list of objects with the fields LONGRA, and others. The template is the group, see `_group_by_template`."""
    rows = []
    for where, item in _read_objects(content, "id"):
        name = _read_id(where, item, "id")
        prompt, target, relative, kind = (_read_text(where, item, field) for field in LONGRA[1:])
        fields = {**other_fields(item, "id", "prompt", "target"), "template": _template(prompt, relative)}
        rows.append(Row(name, prompt, target, kind, fields))
    return check_ids(_group_by_template(rows))


def wikibio(content: bytes) -> list[Row]:
    """WikiBio: a text file with one prompt a line, whose number is its id; or a JSON list of objects.

    Each object has a `prompt`, or a `wiki_bio_text` whose first sentence is the prompt. Rows have no targets and no groups.
    """
    if content.removeprefix(BOM).lstrip()[:1] == b"[":
        return check_ids([_biography(where, item) for where, item in _read_objects(content, "wiki_bio_test_idx")])
    lines = content.removeprefix(BOM).split(b"\n")
    return [Row(str(number), _decode_line(number, line)) for number, line in enumerate(lines, 1) if line.strip()]


def check_ids(rows: Iterable[Row]) -> list[Row]:
    """The rows. Raises OptionError if two have the same id."""
    rows = list(rows)
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise OptionError(f"each row needs an id of its own; {', '.join(twice[:3])} came twice")
    return rows


def other_fields(item: Mapping[str, Any], *used: str) -> dict[str, Any]:
    """The fields that are not `used`."""
    return {field: value for field, value in item.items() if field not in used}


# JSON lists


def _read_objects(content: bytes, id_field: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Each object of the list with its name in messages: the number from 1 on, and its id."""
    try:
        items = strict_json(content.removeprefix(BOM), MAX_DEPTH)
    except ValueError as error:
        raise OptionError(f"it is not JSON: {error}") from error
    if not isinstance(items, list):
        raise OptionError(f"wanted a list of rows; got {type(items).__name__}")
    objects = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping):
            raise OptionError(f"row {number} must be an object; got {type(item).__name__}")
        name = f"row {number} ({id_field} {printable(item[id_field])[:40]})" if id_field in item else f"row {number}"
        objects.append((name, item))
    return objects


def _read_text(where: str, item: Mapping[str, Any], field: str) -> str:
    if field not in item:
        raise OptionError(f"{where} has no {field}")
    if not isinstance(item[field], str) or not item[field].strip():
        raise OptionError(f"{where}: {field} must be text that is not blank; got {printable(item[field])[:80]!r}")
    return item[field]


def _read_id(where: str, item: Mapping[str, Any], field: str) -> str:
    if field not in item:
        raise OptionError(f"{where} has no {field}")
    if not isinstance(item[field], int | str) or isinstance(item[field], bool):
        raise OptionError(f"{where}: {field} must be a number or text; got {printable(item[field])[:80]!r}")
    return printable(item[field])


# LongRA


def _template(prompt: str, relative: str) -> str | None:
    """The prompt with `{}` for each occurrence of its relative as a word; None if there is none."""
    template, count = re.subn(rf"(?<!\w){re.escape(relative)}(?!\w)", "{}", prompt)
    return template if count else None


def _group_by_template(rows: Sequence[Row]) -> list[Row]:
    """The rows with groups: the type if all its rows share one template, as in the published set; else type#1, type#2, ..."""
    templates: dict[str | None, list[str]] = defaultdict(list)
    for row in rows:
        if row.fields["template"] not in (None, *templates[row.group]):
            templates[row.group].append(row.fields["template"])

    def group(row: Row) -> str | None:
        of_type = templates[row.group]
        if len(of_type) < 2 or row.fields["template"] not in of_type:
            return row.group
        return f"{row.group}#{of_type.index(row.fields['template']) + 1}"

    return [replace(row, group=group(row)) for row in rows]


# WikiBio


def _biography(where: str, item: Mapping[str, Any]) -> Row:
    field = "prompt" if "prompt" in item else "wiki_bio_text"
    text = _read_text(where, item, field)
    name = next((_read_id(where, item, key) for key in ("id", "wiki_bio_test_idx") if key in item), where.split()[1])
    fields = other_fields(item, "prompt", "wiki_bio_text", "id", "wiki_bio_test_idx")
    return Row(name, text if field == "prompt" else _first_sentence(text), fields=fields)


def _first_sentence(text: str) -> str:
    from noiser.text.units import sentences  # compiled libraries that only this function needs

    start, stop = next(sentences(text))
    return text[start:stop]


def _decode_line(number: int, line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise OptionError(f"row {number} is not UTF-8: byte 0x{line[error.start]:02x} at {error.start}") from error
