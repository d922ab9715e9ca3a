"""What a data set is called on the command line: its name, and where its file is."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from noiser.data.rows import MATCHES, Dataset
from noiser.data.sets import JSONL, SETS, read
from noiser.errors import OptionError

PATH = "path="


def read_label_of_data(label: str) -> tuple[str, str | None, dict[str, Any]]:
    """`known`, `known:path=FILE`, `known:match=word+path=FILE`, or a bare path that ends in .jsonl or .ndjson: the set's name,
    the file or None, and the options `match`, `generate` and `limit`, checked.

    `path=` comes last and takes all that follows, so a path may hold `:` and `+`. A bare path is taken as it is, unless it
    begins like a label (`known:`, then an option); `./` before it helps.

    Raises OptionError for a name, an option or a value that does not exist.
    """
    name, colon, rest = label.partition(":")
    if label in SETS:
        return label, None, {}
    if name not in SETS or not colon or "=" not in rest:
        if label.endswith(JSONL):
            return "jsonl", label, {}
        raise OptionError(f"--data wants {', '.join(SETS)}, NAME:path=FILE, or a file that ends in {' or '.join(JSONL)}; got {label!r}")
    given, path = _parted(rest)
    pairs = [pair.partition("=") for pair in given.split("+") if given]
    wrong = next((option for option, _, _ in pairs if option not in _READERS), None)
    if wrong is not None:
        raise OptionError(f"{label}: data has the options {', '.join(_READERS)}, and path last; got {wrong!r}")
    return name, path, {option: _READERS[option](label, value) for option, _, value in pairs}


def read_labelled(label: str) -> Dataset:
    """The set that a label names, with the options that it carries. Raises OptionError as both steps do."""
    name, path, options = read_label_of_data(label)
    found = read(name, path)
    return replace(found, rows=found.rows[: options.pop("limit", None)], **options)


def _parted(rest: str) -> tuple[str, str | None]:
    """The options before `path=`, and the path."""
    if rest.startswith(PATH):
        return "", rest.removeprefix(PATH)
    given, found, path = rest.partition(f"+{PATH}")
    return given, path if found else None


def _match(label: str, value: str) -> str:
    if value not in MATCHES:
        raise OptionError(f"{label}: match must be one of {', '.join(MATCHES)}; got {value!r}")
    return value


def _generate(label: str, value: str) -> int | None:
    if value == "none":
        return None
    if not (value.isascii() and value.isdecimal() and 0 < int(value) < 10**6):
        raise OptionError(f"{label}: generate wants how many tokens, from 1 on, or none; got {value!r}")
    return int(value)


def _limit(label: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and 0 < int(value) < 10**9):
        raise OptionError(f"{label}: limit wants how many prompts, from 1 on; got {value!r}")
    return int(value)


_READERS: Mapping[str, Callable[[str, str], Any]] = {"match": _match, "generate": _generate, "limit": _limit}
