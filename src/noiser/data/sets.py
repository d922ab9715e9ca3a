"""The sets there are, and how to read each."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from noiser.data import formats
from noiser.data.download import fetched, located, read_bytes
from noiser.data.formats import jsonl
from noiser.data.rows import MATCHES, Dataset, Kind, Match, Row
from noiser.errors import OptionError

JSONL = (".jsonl", ".ndjson")
"""How the name of a file ends that can be asked for without saying what it is."""
FORMATS: Mapping[Kind, tuple[Callable[[bytes], list[Row]], str]] = {
    "known": (formats.known, f"a JSON list of objects with {', '.join(formats.KNOWN)}"),
    "longra": (formats.longra, f"a JSON list of objects with {', '.join(formats.LONGRA)}"),
    "wikibio": (formats.wikibio, "a text file with a prompt a line, or a JSON list of objects with prompt or wiki_bio_text"),
    "jsonl": (jsonl, "an object with a prompt a line"),
}
"""What reads each kind of file, and what such a file holds, in words."""


@dataclass(frozen=True)
class SetInfo:
    """What a name stands for."""

    name: str
    kind: Kind
    what: str
    """In a sentence."""
    match: Match
    """When a row counts as answered, unless something else is asked for."""
    generate: int | None
    """How many tokens of the model's own are explained; None: the next one only."""
    published: int | None = None
    """How many rows were published; None where nothing was."""
    names: tuple[str, ...] = ()
    """The files it is looked for in."""
    fetchable: bool = False
    """Whether it can be fetched where it is not here."""
    shipped: str = ""
    """The file that comes with noiser, where it does."""


_INFOS = (
    SetInfo("known-mini", "known", "Facts in one word: 96 prompts of our own over 12 relations, in Known's format.", "token", None,
            shipped="known-mini.json"),
    SetInfo("longra-mini", "longra", "A distractor before the answer: 40 prompts of our own in 10 templates, in LongRA's format.", "token",
            None, shipped="longra-mini.json"),
    SetInfo("wikibio-mini", "wikibio", "Openings of articles: 20 of our own, to be continued.", "none", 10, shipped="wikibio-mini.txt"),
    SetInfo("known", "known", "Facts that GPT-2 XL knows, by relation (Meng et al. 2022).", "token", None, 1209,
            ("known_1000.json",), fetchable=True),
    SetInfo("longra", "longra", "Analogies with a distractor before the answer, in 14 templates (Vafa et al. 2021).", "token", None, 573,
            ("longra.json",)),
    SetInfo("wikibio", "wikibio", "Openings of biographies (Lebret et al. 2016, through Manakul et al. 2023), to be continued.", "none", 10,
            238, ("wikibio.json", "wikibio.txt"), fetchable=True),
    SetInfo("jsonl", "jsonl", "Rows of your own, an object a line.", "none", None),
)  # fmt: skip
SETS: Mapping[str, SetInfo] = {each.name: each for each in _INFOS}
"""All sets by name; `jsonl` stands for any file of your own."""


def read(name: str, path: str | Path | None = None) -> Dataset:
    """The set of that name, or the rows of a file in its format.

    name   one of SETS, or the path of a file of your own that ends in .jsonl or .ndjson.
    path   the file; without it `known`, `longra` and `wikibio` are looked for in the folder $NOISER_DATA and in the cache,
           and `known` and `wikibio` fetched into the cache where they are in neither.

    Raises OptionError where there is no such set or file, where it cannot be fetched, and for the first row of a published
    format that is not as it should be. Lines of a jsonl file that do not fit become rows with an `error`.
    """
    if name not in SETS and name.endswith(JSONL) and path is None:
        name, path = "jsonl", name
    info = _find(name)
    try:
        return _read(info, Path(path) if path is not None else None)
    except OptionError as error:
        raise OptionError(f"data {name}: {error}.{_advice(info)}") from error


def present(info: SetInfo) -> str:
    """Where the set is, in words: `shipped`, a place and a file; or what becomes of it where it is not here."""
    if info.shipped:
        return "shipped"
    if not info.names:
        return "yours"
    found = located(info.names)
    if found:
        return f"{found[0]}: {found[1].name}"
    return "not here; fetched when asked for" if info.fetchable else "not here"


def _find(name: str) -> SetInfo:
    if name not in SETS:
        raise OptionError(f"there is no data set {name!r}; there are {', '.join(SETS)}, and files that end in {' or '.join(JSONL)}")
    return SETS[name]


def _read(info: SetInfo, path: Path | None) -> Dataset:
    if info.shipped:
        if path is not None:
            raise OptionError(f"it comes with noiser and takes no path; for a file in its format say {info.kind}:path={path}")
        return _dataset(info, info.name, info.shipped, (files("noiser.data") / "samples" / info.shipped).read_bytes())
    if path is None:
        path = _on_its_own(info)
    elif not path.is_file():
        raise OptionError(f"there is no file {path}")
    name = path.stem if info.kind == "jsonl" else info.name
    try:
        return _dataset(info, name, path.name, read_bytes(path))
    except OptionError as error:
        raise OptionError(f"{path.name}: {error}") from error


def _on_its_own(info: SetInfo) -> Path:
    """The file in one of its places, fetched where need be."""
    found = located(info.names)
    if found:
        return found[1]
    if not info.names:
        raise OptionError("a file of your own needs its path")
    if not info.fetchable:
        raise OptionError("it is not here, and there is no place that we know of to fetch it from")

    def check(raw: bytes) -> None:
        rows = FORMATS[info.kind][0](raw)
        if len(rows) != info.published:
            raise OptionError(f"what was fetched has {len(rows):,} rows, not the {info.published:,} that were published; it was not kept")

    return fetched(info.names[0], check)


def _dataset(info: SetInfo, name: str, source: str, raw: bytes) -> Dataset:
    rows = tuple(FORMATS[info.kind][0](raw))
    if not rows:
        raise OptionError("there are no rows in it")
    digest = hashlib.sha256(raw).hexdigest()
    return Dataset(name, info.kind, rows, digest, source, info.match, info.generate, len(rows) == info.published)


def _advice(info: SetInfo) -> str:
    """Which file is wanted, in which format, and where to put it."""
    if info.shipped:
        return ""
    if not info.names:
        return f" Wanted: a file that ends in {' or '.join(JSONL)}, or jsonl:path=FILE: {FORMATS[info.kind][1]}"
    place = f"give --data {info.name}:path=FILE, or put it into a folder that NOISER_DATA names, as $NOISER_DATA/{info.names[0]}"
    return f" Wanted: {FORMATS[info.kind][1]}; {place}"


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
