"""Where the published files are: in a folder of the user's, in the cache, or fetched into it."""

import json
import os
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any

from noiser.errors import OptionError
from noiser.storage import cache_folder, write_file

KNOWN_URL = "https://rome.baulab.info/data/dsets/known_1000.json"
WIKIBIO_HUB = "potsawee/wiki_bio_gpt3_hallucination"
SILENCE = 5.0
"""Seconds that a server may take to answer, or between two parts of a file."""
PATIENCE = 120.0
"""Seconds that a whole download may take."""
LARGEST = 20_000_000
"""Bytes; the file we want has some 300,000."""
AT_ONCE = 65_536


def folders() -> list[tuple[str, Path]]:
    """Where files are looked for, in this order, and what to call each place. Raises OptionError where NOISER_DATA is no folder."""
    own = os.environ.get("NOISER_DATA")
    if own and not Path(own).is_dir():
        raise OptionError(f"NOISER_DATA names a folder with data sets; there is no folder {own}")
    return [*([("$NOISER_DATA", Path(own))] if own else []), ("the cache", cache_folder() / "data")]


def located(names: tuple[str, ...]) -> tuple[str, Path] | None:
    """The first of these files that is there, and the place it was found in; None where there is none."""
    return next(((place, folder / name) for place, folder in folders() for name in names if (folder / name).is_file()), None)


def fetched(name: str, check: Callable[[bytes], None]) -> Path:
    """The file, fetched into the cache. It appears there only when it is whole and `check` has found nothing wrong with it."""
    raw = _from_hub() if name.startswith("wikibio") else _from_url(KNOWN_URL)
    check(raw)
    folder = cache_folder() / "data"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / name, raw)
    except OSError as error:
        raise OptionError(f"it was fetched, but cannot be written into the cache {folder}: {error.strerror or error}") from error
    return folder / name


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises OptionError where there are none to read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror or error}") from error


def _from_url(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=SILENCE) as answer:  # noqa: S310  (a constant of ours)
            return _whole(answer, time.monotonic() + PATIENCE)
    except (OSError, HTTPException) as error:
        raise OptionError(f"it is not here, and {url} cannot be fetched: {error}") from error


def _whole(answer: Any, until: float) -> bytes:
    """Everything the server sends. Raises OSError where that is too much, too slow, or less than it said."""
    raw = bytearray()
    while part := answer.read(AT_ONCE):
        raw += part
        if len(raw) > LARGEST:
            raise OSError(f"it sends more than {LARGEST:,} bytes")
        if time.monotonic() > until:
            raise OSError(f"it takes longer than {PATIENCE:.0f} s")
    said = answer.headers.get("Content-Length", "")
    if said.isdecimal() and len(raw) != int(said):
        raise OSError(f"it broke off after {len(raw):,} of {int(said):,} bytes")
    return bytes(raw)


def _from_hub() -> bytes:
    """The hub's set, reduced to what we use, in JSON; the same bytes whoever fetches them."""
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise OptionError("it is not here, and to fetch it takes the datasets package: pip install 'noiser[data]'") from error
    try:
        found = datasets.load_dataset(WIKIBIO_HUB, split="evaluation")
        rows = [{field: row[field] for field in ("wiki_bio_test_idx", "wiki_bio_text")} for row in found]
    except Exception as error:  # whatever goes wrong in that package, the set is not here
        raise OptionError(f"it is not here, and {WIKIBIO_HUB} cannot be fetched: {type(error).__name__}: {error}") from error
    return json.dumps(rows, indent=0).encode()
