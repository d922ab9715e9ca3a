"""The one reader of your own files: every command reads prompts through it, whatever format and layout they have."""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from noiser.data.content import Content, Item, read_content
from noiser.data.foreign import HEADER, OWN, Parts, recognise
from noiser.data.published import check_ids, other_fields
from noiser.data.rows import Row
from noiser.errors import OptionError
from noiser.storage import printable

SOURCES = ("spans", "documents")
"""Fields of the prompt's named parts, as `LanguageModel.prompt` takes them."""
Fields = Mapping[str, str]
"""Which field of the file is the prompt, the target, the id or the group, by these four names."""


@dataclass(frozen=True)
class FileRows:
    """The rows of a file, in its order; wrong ones have an `error`."""

    rows: list[Row]
    numbers: list[int]
    """The line of each row, or its place in a list."""
    unit: str
    """What the numbers count: `line` or `row`."""
    remarks: tuple[str, ...]
    """How the file was read, one sentence for each layout that is not noiser's own."""
    texts: list[str]
    """What stands in the file for each row, for messages about it."""


def parse_fields(text: str) -> dict[str, str]:
    """`prompt=question,target=answer` as a mapping. Raises OptionError for another name, an empty field, or a name that comes twice."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    names = [name.strip() for name, _, _ in pairs]
    if not all(name in OWN and field.strip() for name, (_, _, field) in zip(names, pairs, strict=True)) or len(set(names)) < len(names):
        raise OptionError(f"fields wants {', '.join(OWN)}, each once at most, as in prompt=question,target=answer; got {text!r}")
    return {name: field.strip() for name, (_, _, field) in zip(names, pairs, strict=True)}


def fields_text(fields: Fields) -> str:
    """The mapping as `parse_fields` reads it, in a fixed order."""
    return ",".join(f"{name}={fields[name]}" for name in OWN if name in fields)


def read_file(content: bytes, name: str, fields: Fields | None = None) -> FileRows:
    """The rows of a file of your own.

    Args:
        content: the file's bytes: JSON lines, a JSON list, CSV, TSV, Parquet, or text with one prompt on each line. The content
            decides, `name` is a hint.
        name: the file's name; `-` for standard input.
        fields: the names of foreign fields. Without it rows are recognised, see `noiser.data.foreign`.

    A wrong row becomes a row with an `error`, and its number names it unless it has an id. Raises OptionError for a file that is
    not read (compressed, binary, another format), for a table without a prompt, for no rows, and if an id occurs twice.
    """
    fields = fields or {}
    found = read_content(content, name, HEADER | set(fields.values()))
    if fields and found.format == "text":
        raise OptionError(f"fields are for rows with names, and this is text; got {fields_text(fields)}")
    _check_columns(found, fields)
    reader = _Reader(found, fields)
    pairs = [(item, row) for item in found.items if (row := reader.read(item)) is not None]
    named = check_ids(row for _, row in pairs if row.id)
    taken = {row.id for row in named}
    rows = [row if row.id else replace(row, id=_unique_name(str(item.number), taken)) for item, row in pairs]
    texts = [_text_of(item, row) for item, row in pairs]
    return FileRows(rows, [item.number for item, _ in pairs], found.unit, (*found.remarks, *reader.remarks()), texts)


def _text_of(item: Item, row: Row) -> str:
    """The prompt as text if it is text, else what stands in the file."""
    prompt = row.prompt["prompt"] if isinstance(row.prompt, Mapping) else row.prompt
    if isinstance(prompt, str) and not row.error:
        return prompt
    return item.value if isinstance(item.value, str) else json.dumps(item.value, ensure_ascii=False)


def _check_columns(found: Content, fields: Fields) -> None:
    """Raises OptionError if no column of a table can be the prompt."""
    if not found.columns:
        return
    missing = [field for field in fields.values() if field.partition(".")[0] not in found.columns and field not in found.columns]
    columns = ", ".join(map(printable, found.columns))
    if missing:
        raise OptionError(f"it has no column {', '.join(missing)}; it has {columns}")
    if "prompt" not in fields and recognise(dict.fromkeys(found.columns, "")) is None:
        raise OptionError(f"none of its columns is known as the prompt; it has {columns}. Name it: prompt=COLUMN in --fields")


class _Reader:
    """Reads items and counts what it did."""

    def __init__(self, found: Content, fields: Fields) -> None:
        self._found, self._fields = found, fields
        self._layouts: Counter[tuple[str, str]] = Counter()
        self._numbers: list[int] = []
        self._tools = 0
        self._logged: dict[str, Row] = {}
        self._repeated = 0

    def read(self, item: Item) -> Row | None:
        """The item's row. None if the row repeats the doc of a sample log."""
        where = f"{self._found.unit} {item.number}"
        if item.error:
            return Row("", "", error=_placed(where, item.error))
        if self._found.format == "text":
            return Row("", item.value)
        try:
            return self._row(item.value)
        except OptionError as error:
            value = item.value if isinstance(item.value, Mapping) else {}
            name, group = (printable(value[key]) if value.get(key) is not None else None for key in ("id", "group"))
            return Row(name or "", "", group=group, error=f"{where}: {error}")

    def _row(self, value: Any) -> Row | None:
        if isinstance(value, str):
            self._layouts["texts", "prompt: the text"] += self._found.format == "json"
            if self._found.format == "json":
                return Row("", value)
        if isinstance(value, list) and value:
            return Row("", _prompt(value))
        if not isinstance(value, Mapping):
            raise OptionError(f'wanted an object with a "prompt" that is text, ids or messages; got {printable(value)[:80]}')
        parts, name = self._parts(value)
        target, target_ids = self._target(parts.target)
        id_, group = (printable(each) if each is not None else None for each in (parts.id, parts.group))
        used = {"id", "group", *SOURCES, *parts.used}
        prompt = _with_sources(_prompt(parts.prompt), value, parts.used)
        row = Row(id_ or "", prompt, target, group, other_fields(value, *used), target_ids=target_ids)
        self._tools += bool(value.get("tools") or (isinstance(value.get("body"), Mapping) and value["body"].get("tools")))
        return self._once(row) if name.startswith("an lm-evaluation") else row

    def _parts(self, value: Mapping[str, Any]) -> tuple[Parts, str]:
        """What the row holds, and the name of its layout."""
        if self._fields:
            names = {name: self._fields.get(name, name) for name in OWN}
            if "prompt" in self._fields:
                _look_up(value, names["prompt"], needed=True)
                found = [_look_up(value, names[name], needed=False) for name in OWN]
                return Parts(*found, used=tuple(names.values())), "fields"
        layout = recognise(value)
        if layout is None and "prompt" in value:
            raise OptionError('its "prompt" is empty')
        if layout is None:
            has = ", ".join(map(printable, value)) or "no fields"
            raise OptionError(
                f'wanted an object with a "prompt" that is text, ids or messages, or fields that are known; it has {has[:80]}. '
                "Name them: --fields prompt=...,target=..."
            )
        if layout.how:
            self._layouts[layout.name, layout.how] += 1
        parts = layout.read(value)
        own = {name: _look_up(value, field, needed=False) for name, field in self._fields.items()}
        return replace(parts, **own, used=(*parts.used, *self._fields.values())), layout.name

    def _target(self, target: Any) -> tuple[str | None, tuple[int, ...]]:
        """The target as text, or as ids. Raises OptionError for anything else."""
        if isinstance(target, str | None):
            return target, ()
        ids = target.get("ids") if isinstance(target, Mapping) and set(target) == {"ids"} else target
        if isinstance(ids, list) and ids and all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
            return None, tuple(ids)
        if isinstance(target, int) and not isinstance(target, bool):
            self._numbers.append(target)
            return str(target), ()
        advice = f': write it as text, "{target}"' if isinstance(target, float) else ""
        raise OptionError(f'"target" must be text, or token ids as a list; got {printable(target)[:80]}{advice}')

    def _once(self, row: Row) -> Row | None:
        """The row, unless its doc came before: logs repeat each doc for each filter."""
        before = self._logged.setdefault(row.id, row)
        if not row.id or before is row or (before.prompt, before.target) != (row.prompt, row.target):
            return row
        self._repeated += 1
        return None

    def remarks(self) -> list[str]:
        """What was recognised, and what was done about it."""
        count = len(self._found.items)
        told = [
            f"{f'{number:,} of {count:,} rows ' if number < count else ''}read as {name} ({how})"
            for (name, how), number in self._layouts.items()
            if number
        ]
        if self._repeated:
            told.append(f"{self._repeated:,} lines repeat a doc with another filter and are left out")
        if self._numbers:
            first = self._numbers[0]
            told.append(
                f'{len(self._numbers):,} targets are numbers and are read as text: {first} as "{first}". Token ids are a list: [{first}]'
            )
        if self._tools:
            told.append(f"{self._tools:,} rows have tools, which do not reach the chat template from here")
        return told


def _placed(where: str, error: str) -> str:
    """`line 3 is not JSON`, `line 3: the line is not UTF-8`."""
    return re.sub(r"^it (is|has)\b", rf"{where} \1", error) if error.startswith("it ") else f"{where}: {error}"


def _look_up(value: Mapping[str, Any], field: str, *, needed: bool) -> Any:
    """The field, or with dots a field inside it: `doc.question`, `answers.text.0`. Raises OptionError if a needed one is not there."""
    found: Any = value
    for step in (field,) if field in value else field.split("."):
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            found = None
            break
    if found is None and needed:
        raise OptionError(f"it has no {field}; it has {', '.join(map(printable, value))[:80]}")
    return found


def _prompt(prompt: Any) -> Any:
    """Text, ids or messages. Raises OptionError for a number and for anything else."""
    if isinstance(prompt, Mapping) and set(prompt) == {"ids"}:
        prompt = prompt["ids"]
    if isinstance(prompt, str | list):
        return prompt
    raise OptionError(f'wanted a "prompt" that is text, ids or messages; got {printable(prompt)[:80]}')


def _with_sources(prompt: Any, value: Mapping[str, Any], used: Collection[str]) -> Any:
    """The prompt with the row's spans or documents, if it has any. Fields that are `used` for something else are neither."""
    sources = {name: value[name] for name in SOURCES if name not in used and value.get(name) is not None}
    return {"prompt": prompt, **sources} if sources else prompt


def _unique_name(name: str, taken: set[str]) -> str:
    """The name, with as many primes as it takes to be unique."""
    while name in taken:
        name += "'"
    return name
