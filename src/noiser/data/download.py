"""Find the published files: in the user's folder, in the cache, or on the net."""

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
SILENCE_SECONDS = 5.0
"""Seconds that a server may take to answer, or between two parts of a file."""
TOTAL_SECONDS = 120.0
"""Seconds that a whole download may take."""
MAX_BYTES = 20_000_000
"""The file that we want has some 300,000."""
CHUNK_BYTES = 65_536


def data_folders() -> list[tuple[str, Path]]:
    """The folders that are searched, in this order, each with its name for messages. Raises OptionError for a wrong NOISER_DATA."""
    folder = os.environ.get("NOISER_DATA")
    if folder and not Path(folder).is_dir():
        raise OptionError(f"NOISER_DATA must name a folder with data sets; there is no folder {folder}")
    return [*([("$NOISER_DATA", Path(folder))] if folder else []), ("the cache", cache_folder() / "data")]


def locate(names: tuple[str, ...]) -> tuple[str, Path] | None:
    """The first of these files that exists, and the name of its folder; None if there is none."""
    return next(((place, folder / name) for place, folder in data_folders() for name in names if (folder / name).is_file()), None)


def fetch(name: str, check: Callable[[bytes], None]) -> Path:
    """Download the file into the cache. The file appears there only if it is complete and `check` raises nothing."""
    content = _download_from_hub() if name.startswith("wikibio") else _download(KNOWN_URL)
    check(content)
    folder = cache_folder() / "data"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return write_file(folder / name, content)
    except OSError as error:
        raise OptionError(f"it was fetched, but cannot be written into the cache {folder}: {error.strerror or error}") from error


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises OptionError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror or error}") from error


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=SILENCE_SECONDS) as response:  # noqa: S310  (a constant of ours)
            return _read_response(response, time.monotonic() + TOTAL_SECONDS)
    except (OSError, HTTPException) as error:
        raise OptionError(f"it is not here, and {url} cannot be fetched: {error}") from error


def _read_response(response: Any, deadline: float) -> bytes:
    """Everything that the server sends. Raises OSError if that is too much, too slow, or less than it announced."""
    content = bytearray()
    while chunk := response.read(CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_BYTES:
            raise OSError(f"it sends more than {MAX_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise OSError(f"it takes longer than {TOTAL_SECONDS:.0f} s")
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and len(content) != int(announced):
        raise OSError(f"it broke off after {len(content):,} of {int(announced):,} bytes")
    return bytes(content)


def _download_from_hub() -> bytes:
    """The hub's set in JSON, reduced to the fields that we use. The bytes are the same on every machine."""
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise OptionError("it is not here, and fetching it needs the datasets package: pip install 'noiser[data]'") from error
    try:
        split = datasets.load_dataset(WIKIBIO_HUB, split="evaluation")
        rows = [{field: row[field] for field in ("wiki_bio_test_idx", "wiki_bio_text")} for row in split]
    except Exception as error:  # whatever goes wrong in that package, the set is not here
        raise OptionError(f"it is not here, and {WIKIBIO_HUB} cannot be fetched: {type(error).__name__}: {error}") from error
    return json.dumps(rows, indent=0).encode()
