"""What a file holds, told by its name and its content: text, JSON, JSON lines, a table or Parquet. Bytes in, items out."""

import csv
import io
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiser.errors import OptionError, require_extra
from noiser.storage import printable, strict_json

MAX_DEPTH = 50
"""How deep a row may be nested. A run's records hold rows, and may be twice as deep."""
JSON_LINES = (".jsonl", ".ndjson")
TABLES = {".csv": "", ".tsv": "\t", ".tab": "\t"}
"""Endings of tables, and the character between two cells; an empty text stands for the one that the header uses."""
ENDINGS = (*JSON_LINES, ".json", *TABLES, ".parquet", ".txt")
"""Endings of the files that are read."""
NO_ROWS = "there are no rows in it"

_SEPARATORS = ",;\t|"
_MANY = "give JSON lines, a JSON list, CSV, TSV, Parquet, or text with one prompt on each line"
_MAGIC = (
    (b"\x1f\x8b", "it is compressed with gzip: unpack it first, for example with gunzip"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it first, for example with unzstd"),
    (b"\xfd7zXZ\x00", "it is compressed with xz: unpack it first, for example with unxz"),
    (b"PK\x03\x04", "it is a ZIP archive, as spreadsheets (.xlsx, .ods) are: unpack it, or save the table as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "it is a file of an office program: save the table as CSV in UTF-8"),
    (b"SQLite format 3\0", "it is an SQLite database: export the table as CSV"),
    (b"ARROW1\0\0", "it is an Arrow file: save it as Parquet"),
    (b"%PDF-", f"it is a PDF: {_MANY}"),
)
_NOT_READ = {
    ".xml": "XML",
    ".html": "HTML",
    ".htm": "HTML",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".toml": "TOML",
    ".xlsx": "a spreadsheet",
    ".xls": "a spreadsheet",
    ".ods": "a spreadsheet",
    ".pkl": "a pickle",
    ".pickle": "a pickle",
}
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)


@dataclass(frozen=True)
class Item:
    """A line of text, a JSON value or a row of a table."""

    number: int
    """The line in the file, or the place in a list, from 1 on."""
    value: Any = None
    error: str = ""
    """Why there is no value, as a sentence."""


@dataclass(frozen=True)
class Content:
    """The items of a file."""

    format: str
    """`text`, `jsonl`, `json`, `table` or `parquet`."""
    items: list[Item]
    unit: str = "line"
    """What the numbers count: `line` or `row`."""
    remarks: tuple[str, ...] = ()
    """Sentences that say how the file was read, where its name does not."""
    columns: tuple[str, ...] = ()
    """The columns of a table."""


def read_content(content: bytes, name: str, header: Collection[str] = ()) -> Content:
    """The items of a file.

    Args:
        content: the bytes.
        name: the file's name, whose ending is a hint; the content decides. `-` is standard input.
        header: names of columns. A text whose first line has two of them or more is a table.

    Raises OptionError for a file that is compressed, binary, of another format, or without rows.
    """
    if content[:4] == content[-4:] == b"PAR1":
        return _parquet(content)
    for magic, reason in _MAGIC:
        if content.startswith(magic):
            raise OptionError(reason)
    ending = Path(name).suffix.lower()
    body, encoding = _as_utf8(content)
    remarks = (f"read as {encoding}",) if encoding else ()
    if not body.strip():
        raise OptionError(NO_ROWS)
    if ending in _NOT_READ or body.lstrip()[:14].lower().startswith((b"<?xml", b"<!doctype html", b"<html")):
        raise OptionError(f"{_NOT_READ.get(ending, 'XML or HTML')} is not read: {_MANY}")
    if ending == ".parquet":
        raise OptionError(f"it is no Parquet file, whatever its name says: {_MANY}")
    found = _structured(body, ending, header)
    return Content(found.format, found.items, found.unit, (*remarks, *found.remarks), found.columns)


def _structured(body: bytes, ending: str, header: Collection[str]) -> Content:
    """The content in the first format that fits: JSON, JSON lines, a table, text."""
    problem, lines = "", _lines(body)
    if body.lstrip()[:1] in (b"[", b"{"):
        try:
            return _whole_json(strict_json(body, MAX_DEPTH), ending)
        except ValueError as error:
            problem = str(error)
    objects = sum(_is_json_object(line) for _, line in lines)
    if ending in JSON_LINES or objects * 2 >= len(lines):
        told = () if ending in JSON_LINES else (f"read as JSON lines: {objects:,} of {len(lines):,} lines are JSON",)
        return Content("jsonl", [_json_item(number, line) for number, line in lines], remarks=told)
    if ending == ".json":
        raise OptionError(f"it is not JSON: {problem or 'it begins with neither [ nor {'}")
    if ending in TABLES or _has_header(lines[0][1], header):
        return _table(body, TABLES.get(ending, ""))
    told = (f"read as text, but {objects:,} of {len(lines):,} lines are JSON: they are taken as text, too",) if objects else ()
    items = [_text_item(number, line) for number, line in lines]
    if len(items) > 1 and all(item.error for item in items):
        raise OptionError(f"no line is UTF-8 ({items[0].error}): save the file as UTF-8")
    return Content("text", items, remarks=told)


def _lines(body: bytes) -> list[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers. Only a newline ends a line."""
    lines = enumerate(body.split(b"\n"), 1)
    return [(number, line.removesuffix(b"\r")) for number, line in lines if line.strip()]


# Encodings


def _as_utf8(content: bytes) -> tuple[bytes, str]:
    """The text in UTF-8 without its byte order mark, and the name of its encoding if that is another one.

    Raises OptionError for binary content. Bytes that are not UTF-8 stay as they are: they cost their own line only.
    """
    for mark, codec in _BOMS:
        if content.startswith(mark):
            body = content.removeprefix(mark)
            return (body, "") if codec == "utf-8" and b"\0" not in body else (_decode(body, codec), codec.upper()[:6])
    if b"\0" not in content:
        return content, ""
    even, odd = content[::2].count(0), content[1::2].count(0)
    if max(even, odd) * 4 < len(content) or min(even, odd) * 10 > max(even, odd):
        raise OptionError(f"it is binary, or UTF-16 without a byte order mark: {_MANY}, in UTF-8")
    return _decode(content, "utf-16-le" if odd > even else "utf-16-be"), "UTF-16"


def _decode(body: bytes, codec: str) -> bytes:
    try:
        text = body.decode(codec)
    except UnicodeDecodeError as error:
        raise OptionError(f"it begins like {codec.upper()}, but byte {error.start} does not fit: save the file as UTF-8") from error
    if any(unicodedata.category(character) in ("Cc", "Cn") and not character.isspace() for character in set(text)):
        raise OptionError(f"it is binary: {_MANY}, in UTF-8")
    return text.encode()


def _text_item(number: int, line: bytes) -> Item:
    try:
        return Item(number, line.decode())
    except UnicodeDecodeError as error:
        return Item(number, line.decode(errors="replace"), f"the line is not UTF-8: byte 0x{line[error.start]:02x} at {error.start}")


# JSON


def _is_json_object(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(strict_json(line, MAX_DEPTH), dict)
    except ValueError:
        return False


def _json_item(number: int, line: bytes) -> Item:
    try:
        return Item(number, strict_json(line, MAX_DEPTH))
    except UnicodeDecodeError:
        return _text_item(number, line)
    except ValueError as error:
        return Item(number, line.decode(errors="replace"), f"it is not JSON: {error}")


def _whole_json(value: Any, ending: str) -> Content:
    """The rows of a file that is one JSON value. Raises OptionError if there is not exactly one list of rows in it."""
    if isinstance(value, dict):
        return _json_object(value, ending)
    if not value:
        raise OptionError(NO_ROWS)
    if all(isinstance(turn, dict) and "role" in turn and turn.keys() & {"content", "tool_calls"} for turn in value):
        return Content("json", [Item(1, value)], "row", ("read as one chat",))
    if all(isinstance(token, int) and not isinstance(token, bool) for token in value):
        return Content("json", [Item(1, value)], "row", ("read as the token ids of one prompt",))
    return Content(
        "json", [Item(number, row) for number, row in enumerate(value, 1)], "row", (f"read as a JSON list, {_count(len(value))}",)
    )


def _json_object(value: dict[str, Any], ending: str) -> Content:
    lists = [name for name, rows in value.items() if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)]
    is_row = {"messages", "prompt", "conversations", "question", "instruction", "text", "body"} & value.keys()
    if is_row or not lists:
        return Content("json", [Item(1, value)], "line" if ending in JSON_LINES else "row")
    if len(lists) > 1:
        raise OptionError(
            f"it has several lists of rows, {', '.join(map(printable, lists))}: save the one that you want as a list of its own"
        )
    rows = [row for entry in value[lists[0]] for row in _squad_rows(entry)]
    told = f"read as its list {printable(lists[0])!r}, {_count(len(rows))}"
    return Content("json", [Item(number, row) for number, row in enumerate(rows, 1)], "row", (told,))


def _squad_rows(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The questions of an article in SQuAD's own nested form; any other row as it is."""
    try:
        for paragraph in entry["paragraphs"]:
            for question in paragraph["qas"]:
                yield {"title": entry.get("title"), "context": paragraph["context"], **question}
    except (KeyError, TypeError, AttributeError):
        yield entry


# Tables


def _has_header(line: bytes, header: Collection[str]) -> bool:
    """Whether the line has two known names or more in its cells."""
    cells = _cells(line.decode(errors="replace"))
    return len(cells) > 1 and sum(cell in header for cell in cells) > 1


def _cells(line: str, separator: str = "") -> list[str]:
    """The cells of a header, by the separator that gives most of them."""
    options = [next(csv.reader([line], delimiter=each), []) for each in separator or _SEPARATORS]
    return [cell.strip() for cell in max(options, key=len)]


def _table(body: bytes, separator: str) -> Content:
    """The rows of a table as mappings from column to cell; an empty cell is None."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        line = body[: error.start].count(b"\n") + 1
        raise OptionError(f"line {line} is not UTF-8 (byte 0x{body[error.start]:02x}): save the table as CSV in UTF-8") from error
    text, skipped = text.lstrip("\n"), len(text) - len(text.lstrip("\n"))
    if text[:5].lower().startswith("sep=") and text[5:6] in "\r\n":  # the first line that Excel writes on demand
        separator, text, skipped = text[4], text.partition("\n")[2], skipped + 1
    if not separator:
        first = text.partition("\n")[0]
        separator = max(_SEPARATORS, key=lambda each: len(_cells(first, each)))
    return _read_table(text, separator, skipped)


def _read_table(text: str, separator: str, skipped: int) -> Content:
    limit = csv.field_size_limit(len(text) + 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    items, start = [], skipped + 1
    try:
        columns = tuple(cell.strip() for cell in next(reader))
        _check_columns(columns)
        start = skipped + reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                items.append(_table_item(start, columns, cells))
            start = skipped + reader.line_num + 1
    except csv.Error as error:
        raise OptionError(f"it is not a table: line {start} cannot be read: {error}") from error
    finally:
        csv.field_size_limit(limit)
    if not items:
        raise OptionError(NO_ROWS)
    name = {"\t": "TSV", ",": "CSV"}.get(separator, f"CSV with {separator!r} between cells")
    return Content("table", items, remarks=(f"read as {name} with the columns {', '.join(map(printable, columns))}",), columns=columns)


def _table_item(number: int, columns: tuple[str, ...], cells: list[str]) -> Item:
    if len(cells) < len(columns) or any(cell.strip() for cell in cells[len(columns) :]):
        return Item(number, ", ".join(cells), f"it has {len(cells)} cells; the header has {len(columns)}")
    return Item(number, {column: cell or None for column, cell in zip(columns, cells, strict=False) if column})


def _check_columns(columns: tuple[str, ...]) -> None:
    """Raises OptionError if two columns have one name."""
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    if twice:
        raise OptionError(f"each column needs a name of its own; {', '.join(map(printable, twice))} came twice")


def _parquet(content: bytes) -> Content:
    require_extra("parquet", "a Parquet file")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
        columns = tuple(table.column_names)
        _check_columns(columns)
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise OptionError(f"it is a damaged Parquet file: {error}") from error
    if not rows:
        raise OptionError(NO_ROWS)
    items = [Item(number, _plain(row)) for number, row in enumerate(rows, 1)]
    return Content("parquet", items, "row", (f"read as Parquet with the columns {', '.join(columns)}",), columns)


def _plain(value: Any) -> Any:
    """The value as JSON can hold it. What JSON has no form for (a date, bytes, NaN) becomes text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    is_number = isinstance(value, int) or (isinstance(value, float) and abs(value) < float("inf"))
    return value if value is None or isinstance(value, str) or is_number else str(value)


def _count(rows: int) -> str:
    return f"{rows:,} row{'' if rows == 1 else 's'}"
