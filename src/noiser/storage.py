"""Records on disk: one checksummed line of strict JSON each, in a file of each worker's own, flushed to the disk before the next."""

import hashlib
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiser.errors import RunError


def cache_folder() -> Path:
    """`NOISER_CACHE`, or the place where this system keeps caches."""
    if chosen := os.environ.get("NOISER_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "noiser" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "noiser"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "noiser"


def write_whole(path: str | Path, content: bytes) -> Path:
    """Write a file so that whoever reads it meanwhile, or after a failure, finds the one before or this one. The path."""
    place = Path(path)
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(content)
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)
    return place


_HEAD, _MIDDLE = b'{"sum":"', b'","record":'
_SUM = 16
_BODY = len(_HEAD) + _SUM + len(_MIDDLE)


@dataclass(frozen=True)
class Damage:
    """A line that is not what was written."""

    file: str
    line: int
    reason: str
    raw: bytes

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as its line: `{"sum": hash of the rest, "record": ...}`."""
    body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
    return b"".join((_HEAD, _sum(body), _MIDDLE, body, b"}\n"))


def decode(line: bytes) -> dict[str, Any] | str:
    """A line's record (the line end left out), or what is wrong with it."""
    body = line[_BODY:-1]
    if not line.startswith(_HEAD) or line[_BODY - len(_MIDDLE) : _BODY] != _MIDDLE or not line.endswith(b"}"):
        return "it is not a record"
    if line[len(_HEAD) : len(_HEAD) + _SUM] != _sum(body):
        return "its checksum differs"
    found = json.loads(body)
    return found if isinstance(found, dict) else "it is not a record"


def _sum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_SUM // 2).hexdigest().encode()


def scan(folder: Path) -> Iterator[tuple[str, int, dict[str, Any] | Damage]]:
    """Every line of every file in `folder`, in the order of their names: file, line from 1 on, and the record or the damage.

    What stands behind the last line end was torn by a kill or is just being written, and is left out.
    """
    for path in sorted(path for path in folder.glob("*.jsonl") if path.is_file()):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    found = decode(line[:-1])
                    yield path.name, number, Damage(path.name, number, found, line) if isinstance(found, str) else found


class Writer:
    """One worker's file, which nobody else writes to. It appears with the first record."""

    def __init__(self, folder: Path, worker: str = "") -> None:
        name = re.sub(r"[^A-Za-z0-9]+", "-", f"{worker} {socket.gethostname()} {os.getpid()}").strip("-")
        self.path = folder / f"{name}-{secrets.token_hex(4)}.jsonl"
        self._descriptor = -1
        self._size = 0

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the records and flush them to the disk. Raises RunError where that fails; what was written before stays."""
        data = memoryview(b"".join(map(encode, records)))
        try:
            if self._descriptor < 0:
                self._open()
            done = 0
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
            os.fsync(self._descriptor)
        except OSError as error:
            self._take_back()
            said = error.strerror or error
            raise RunError(
                f"cannot write to {self.path.name}: {said}. All records before are intact; once it can be written again, the same "
                "command goes on from there"
            ) from error
        self._size += len(data)

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        sync_folder(self.path.parent)

    def _take_back(self) -> None:
        """Cut off what was begun; were it left, readers would skip it as torn."""
        if self._descriptor >= 0:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError:
                self.close()


def sync_folder(folder: Path) -> None:
    """Make a new name in the folder last, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def create_once(path: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """Write a checksummed file under this name, unless somebody else did first; what it holds in the end.

    It appears whole or not at all, whatever happens, and never changes. Raises RunError where it cannot be written.
    """
    if path.exists():
        return read_once(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with partial.open("wb") as file:
            file.write(encode(value))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return read_once(path)
        except OSError:  # a file system without hard links
            if not path.exists():
                partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return read_once(path)


def read_once(path: Path) -> dict[str, Any]:
    """What `create_once` wrote. Raises RunError where that was damaged."""
    found = decode(path.read_bytes().removesuffix(b"\n"))
    if isinstance(found, str):
        raise RunError(f"{path} is damaged: {found}. Move it away, and the command that began the run makes it anew")
    return found
