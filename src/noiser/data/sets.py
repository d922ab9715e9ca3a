"""The data sets that noiser knows, how to read each, and the labels that name them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from noiser.data import published
from noiser.data.content import ENDINGS
from noiser.data.download import fetch, locate, read_bytes
from noiser.data.files import Fields, fields_text, parse_fields, read_file
from noiser.data.foreign import OWN
from noiser.data.rows import MATCHES, Dataset, Kind, Match, Row
from noiser.errors import OptionError

FORMATS: Mapping[Kind, tuple[Callable[[bytes], list[Row]], str]] = {
    "known": (published.known, f"a JSON list of objects with {', '.join(published.KNOWN)}"),
    "longra": (published.longra, f"a JSON list of objects with {', '.join(published.LONGRA)}"),
    "wikibio": (published.wikibio, "a text file with a prompt a line, or a JSON list of objects with prompt or wiki_bio_text"),
    "jsonl": (
        lambda content: read_file(content, "-").rows,
        "JSON lines, a JSON list, CSV, TSV, Parquet, or text with one prompt on each line",
    ),
}
"""The reader of each kind of file, and a description of such a file."""


@dataclass(frozen=True)
class SetInfo:
    """A data set that noiser knows."""

    name: str
    kind: Kind
    what: str
    """A description, in a sentence."""
    match: Match
    """The default rule for when a row is answered."""
    generate: int | None
    """How many tokens that the model generates are explained. None: the next token only."""
    published: int | None = None
    """How many rows were published. None: not a published set."""
    names: tuple[str, ...] = ()
    """The files that are searched for."""
    fetchable: bool = False
    """True if the set can be downloaded."""
    shipped: str = ""
    """The file that comes with noiser; empty if none does."""


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
    SetInfo("jsonl", "jsonl", "Your own file: JSON lines, a JSON list, CSV, TSV, Parquet or text.", "none", None),
)  # fmt: skip
SETS: Mapping[str, SetInfo] = {info.name: info for info in _INFOS}
"""All sets by name. `jsonl` stands for any file of your own."""


def read(name: str, path: str | Path | None = None, fields: Fields | str | None = None) -> Dataset:
    """Read a data set.

    Args:
        name: one of SETS, or the path of a file of your own whose ending is one of ENDINGS.
        path: the file. Without it, `known`, `longra` and `wikibio` are searched for in the folder $NOISER_DATA and in the cache;
            `known` and `wikibio` are then downloaded into the cache.
        fields: which field of a file of your own is the `prompt`, `target`, `id` or `group`: a mapping, or `prompt=question,target=answer`.

    Raises OptionError for an unknown set, a missing file, a failed download, and for the first wrong row of a published format.
    Wrong lines of a file of your own become rows with an `error`.
    """
    if name not in SETS and is_file_name(name) and path is None:
        name, path = "jsonl", name
    info = _find(name)
    try:
        return _read(info, Path(path) if path is not None else None, parse_fields(fields) if isinstance(fields, str) else fields)
    except OptionError as error:
        raise OptionError(f"data {name}: {error}.{_advice(info)}") from error


def is_file_name(name: str) -> bool:
    """Whether the name ends as a file that is read without a set's name in front."""
    return name.lower().endswith(ENDINGS)


def present(info: SetInfo) -> str:
    """Where the set is, in words: `shipped`, `yours`, a place and a file, or `not here`."""
    if info.shipped:
        return "shipped"
    if not info.names:
        return "yours"
    located = locate(info.names)
    if located:
        return f"{located[0]}: {located[1].name}"
    return "not here; fetched when asked for" if info.fetchable else "not here"


def _find(name: str) -> SetInfo:
    if name not in SETS:
        raise OptionError(f"there is no data set {name!r}; there are {', '.join(SETS)}, and files that end in {', '.join(ENDINGS)}")
    return SETS[name]


def _read(info: SetInfo, path: Path | None, fields: Fields | None) -> Dataset:
    if fields and info.kind != "jsonl":
        raise OptionError(f"fields are for files of your own; {info.name} has a format of its own")
    if info.shipped:
        if path is not None:
            raise OptionError(f"it comes with noiser and takes no path; for a file in its format give {info.kind}:path={path}")
        return _dataset(info, info.name, info.shipped, (files("noiser.data") / "samples" / info.shipped).read_bytes())
    if path is None:
        path = _locate_or_fetch(info)
    elif not path.is_file():
        raise OptionError(f"there is no file {path}")
    try:
        if info.kind == "jsonl":
            return _own_dataset(info, path, fields)
        return _dataset(info, info.name, path.name, read_bytes(path))
    except OptionError as error:
        raise OptionError(f"{path.name}: {error}") from error


def _locate_or_fetch(info: SetInfo) -> Path:
    located = locate(info.names)
    if located:
        return located[1]
    if not info.names:
        raise OptionError("a file of your own needs its path")
    if not info.fetchable:
        raise OptionError("it is not here, and we know no place to download it from")

    def check(content: bytes) -> None:
        rows = FORMATS[info.kind][0](content)
        if len(rows) != info.published:
            raise OptionError(f"the download has {len(rows):,} rows, not the {info.published:,} that were published; it was not kept")

    return fetch(info.names[0], check)


def _dataset(info: SetInfo, name: str, source: str, content: bytes) -> Dataset:
    rows = tuple(FORMATS[info.kind][0](content))
    if not rows:
        raise OptionError("there are no rows in it")
    sha256 = hashlib.sha256(content).hexdigest()
    return Dataset(name, info.kind, rows, sha256, source, info.match, info.generate, len(rows) == info.published)


def _own_dataset(info: SetInfo, path: Path, fields: Fields | None) -> Dataset:
    content = read_bytes(path)
    found, sha256 = read_file(content, path.name, fields), hashlib.sha256(content).hexdigest()
    return Dataset(
        path.stem, info.kind, tuple(found.rows), sha256, path.name, info.match, info.generate, complete=False, remarks=found.remarks
    )


def _advice(info: SetInfo) -> str:
    """Which file is needed, in which format, and where to put it."""
    if info.shipped:
        return ""
    description = FORMATS[info.kind][1]
    if not info.names:
        return f" Needed: {description}. A file with another ending: jsonl:path=FILE"
    place = f"give --data {info.name}:path=FILE, or put it into a folder that NOISER_DATA names, as $NOISER_DATA/{info.names[0]}"
    return f" Needed: {description}; {place}"


# Labels: a set's name with options

PATH = "path="


def read_label_of_data(label: str) -> tuple[str, str | None, dict[str, Any]]:
    """A label as name, file and options: `known`, `known:path=FILE`, `known:match=word+path=FILE`, `rows.csv`, `rows.csv:prompt=question`.

    The options are `match`, `generate` and `limit`, and for a file of your own `prompt`, `target`, `id` and `group`, which name its
    fields and come back together as `fields`. They are checked. `path=` comes last and takes the rest of the label, so a path may
    hold `:` and `+`. A bare path must not begin like a label (`known:`, then an option); put `./` in front.

    Raises OptionError for an unknown name or option, or a wrong value.
    """
    name, colon, rest = label.partition(":")
    if label in SETS:
        return label, None, {}
    if name in SETS and colon and "=" in rest:
        rest, path = _split_path(rest)
        return name, path, _read_options(label, rest, own=SETS[name].kind == "jsonl")
    if is_file_name(label):
        return "jsonl", label, {}
    file, colon, rest = label.rpartition(":")
    if colon and is_file_name(file) and "=" in rest:
        return "jsonl", file, _read_options(label, rest, own=True)
    raise OptionError(f"--data wants {', '.join(SETS)}, NAME:path=FILE, or a file that ends in {', '.join(ENDINGS)}; got {label!r}")


def _read_options(label: str, text: str, *, own: bool) -> dict[str, Any]:
    """The options of a label. Those that name fields become one option, `fields`."""
    pairs = [option.partition("=") for option in text.split("+") if option]
    known = (*_READERS, *(OWN if own else ()))
    unknown = next((option for option, _, _ in pairs if option not in known), None)
    if unknown is not None:
        raise OptionError(f"{label}: data has the options {', '.join(known)}, and path last; got {unknown!r}")
    fields = {option: value for option, _, value in pairs if option in OWN}
    options = {option: _READERS[option](label, value) for option, _, value in pairs if option in _READERS}
    return {**options, **({"fields": fields_text(parse_fields(fields_text(fields)))} if fields else {})}


def read_labelled(label: str, fields: str | None = None) -> Dataset:
    """The set that a label names, with the label's options. `fields` are for a file of your own whose label names none.

    Raises OptionError as `read_label_of_data` and `read` do.
    """
    name, path, options = read_label_of_data(label)
    own = options.pop("fields", fields if SETS[name].kind == "jsonl" else None)
    dataset = read(name, path, own)
    return replace(dataset, rows=dataset.rows[: options.pop("limit", None)], **options)


def _split_path(rest: str) -> tuple[str, str | None]:
    """The options before `path=`, and the path."""
    if rest.startswith(PATH):
        return "", rest.removeprefix(PATH)
    options, separator, path = rest.partition(f"+{PATH}")
    return options, path if separator else None


def _read_match(label: str, value: str) -> str:
    if value not in MATCHES:
        raise OptionError(f"{label}: match must be one of {', '.join(MATCHES)}; got {value!r}")
    return value


def _read_generate(label: str, value: str) -> int | None:
    if value == "none":
        return None
    if not _is_count(value, 10**6):
        raise OptionError(f"{label}: generate must be a number of tokens from 1 on, or none; got {value!r}")
    return int(value)


def _read_limit(label: str, value: str) -> int:
    if not _is_count(value, 10**9):
        raise OptionError(f"{label}: limit must be a number of prompts from 1 on; got {value!r}")
    return int(value)


def _is_count(value: str, end: int) -> bool:
    return value.isascii() and value.isdecimal() and 0 < int(value) < end


_READERS: Mapping[str, Callable[[str, str], Any]] = {"match": _read_match, "generate": _read_generate, "limit": _read_limit}
