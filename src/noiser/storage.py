"""Files that survive failures: the user cache, files that are replaced as a whole, and append-only records with checksums."""

import hashlib
import json
import os
import re
import secrets
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from noiser.errors import RunError


def cache_folder() -> Path:
    """The folder of all caches: `NOISER_CACHE`, or the usual place of this operating system."""
    if chosen := os.environ.get("NOISER_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "noiser" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "noiser"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "noiser"


def printable(value: Any) -> str:
    """The value as text that a file can hold: lone surrogates become escapes."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def slug(text: str, keep: str = "._-") -> str:
    """The text as part of a file name: ASCII letters, digits and the characters of `keep`; a dash for everything else."""
    return re.sub(rf"[^A-Za-z0-9{re.escape(keep)}]+", "-", text).strip("-.")


# Files of results


def write_file(path: str | Path, content: bytes) -> Path:
    """Write `content` to a file and return the path. Every result is written by this function or by `open_output`.

    An ordinary file is replaced as a whole: after an error (a full disk, for example) the old file is still there, unchanged. A
    symbolic link is followed. A device, a FIFO or `/dev/stdout` is written to and never replaced. Raises OSError.
    """
    with open_output(path) as file:
        file.write(content)
    return Path(path)


@contextmanager
def open_output(path: str | Path) -> Iterator[IO[bytes]]:
    """As `write_file`, for content that comes in pieces: `with open_output(path) as file: file.write(...)`.

    An ordinary file appears at the end of the block. An exception inside the block leaves the old file, or no file.
    For text wrap the file: `io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)`, and detach it at the end.
    """
    if _is_written_through(path):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}")
    try:
        with _create_beside(target, partial, path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _create_beside(target: Path, partial: Path, path: str | Path) -> IO[bytes]:
    """The new file, with the permissions of the old one. Raises OSError that names `path` and not the partial file."""
    try:
        old = target.stat()
    except FileNotFoundError:
        old = None
    if old is not None and not os.access(target, os.W_OK):
        raise PermissionError(13, "Permission denied", str(path))
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    if old is not None:
        partial.chmod(stat.S_IMODE(old.st_mode))
    return os.fdopen(descriptor, "wb")


def _is_written_through(path: str | Path) -> bool:
    """True for whatever a new file cannot replace: a folder, a device, a FIFO, an open file under /dev or /proc."""
    place = Path.cwd() / path
    for _ in range(40):  # as many links as Linux follows
        if str(place).startswith(("/dev/fd/", "/dev/std", "/proc/")):
            return True
        if not place.is_symlink():
            break
        place = Path(os.path.realpath(place.parent)) / place.readlink()
    return Path(path).exists() and not Path(path).is_file()


def _sync_folder(folder: Path) -> None:
    """Make a new name in the folder durable, on systems that can."""
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


# Records: one checksummed line of strict JSON each

_HEAD, _MIDDLE = b'{"sum":"', b'","record":'
_SUM = 16
_BODY = len(_HEAD) + _SUM + len(_MIDDLE)
_NOT_A_RECORD = "it is not a record"
MAX_DEPTH = 100
"""How deep the JSON of a record may be nested."""
Problem = Callable[[Mapping[str, Any]], str]
"""Says what is wrong with a record, as a sentence; an empty text if nothing is."""


def _no_problem(_: Mapping[str, Any]) -> str:
    return ""


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
    """A record as its line: `{"sum": hash of the rest, "record": ...}`. Raises ValueError for NaN and infinity."""
    body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
    return b"".join((_HEAD, _checksum(body), _MIDDLE, body, b"}\n"))


def decode(line: bytes) -> dict[str, Any] | str:
    """The record of a line (given without its line end), or a sentence that says what is wrong with the line.

    A correct checksum does not make a line trusted: NaN, infinity, integers of thousands of digits and deep nesting are refused.
    """
    body = line[_BODY:-1]
    if not line.startswith(_HEAD) or line[_BODY - len(_MIDDLE) : _BODY] != _MIDDLE or not line.endswith(b"}"):
        return _NOT_A_RECORD
    if line[len(_HEAD) : len(_HEAD) + _SUM] != _checksum(body):
        return "its checksum differs"
    try:
        record = strict_json(body)
    except ValueError as error:
        return f"it is not strict JSON: {error}"
    return record if isinstance(record, dict) else _NOT_A_RECORD


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_SUM // 2).hexdigest().encode()


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _is_too_deep(body: bytes, max_depth: int) -> bool:
    """Checked before parsing, because the parser itself recurses."""
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    depth = 0
    for bracket in _STRING.sub(b"", body).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > max_depth:
            return True
    return False


_LARGE_NUMBER = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{309}")


def strict_json(body: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """The parsed JSON. Raises ValueError for everything that RFC 8259 or a float64 cannot hold, and for deep nesting.

    That is: text that is not JSON or not UTF-8, NaN, infinity, numbers of 1e309 and more, and nesting deeper than `max_depth`.
    """
    if _is_too_deep(body, max_depth):
        raise ValueError(f"it is nested more than {max_depth} deep")
    if _LARGE_NUMBER.search(body) is None:  # no number overflows: the fast parser is enough
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    return json.loads(body.decode(), parse_constant=_refuse_constant, parse_float=_finite, parse_int=_small)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number


def _small(digits: str) -> int:
    if len(digits) > 308:
        raise ValueError(f"an integer has {len(digits):,} digits")
    return int(digits)


def scan(folder: Path, problem: Problem = _no_problem) -> Iterator[tuple[str, int, dict[str, Any] | Damage]]:
    """Yield every line of every `*.jsonl` file in `folder`, in the order of the names: file, line from 1 on, record or damage.

    A record with a `problem` is damage. Bytes after the last line end are left out: they were torn by a kill, or are being written.
    """
    for path in sorted(path for path in folder.glob("*.jsonl") if path.is_file()):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    record = decode(line[:-1])
                    reason = record if isinstance(record, str) else problem(record)
                    yield path.name, number, Damage(path.name, number, reason, line) if reason or isinstance(record, str) else record


class Writer:
    """The file of one worker. No other process writes to it. The file appears with the first record."""

    def __init__(self, folder: Path, worker: str = "") -> None:
        name = slug(f"{worker} {socket.gethostname()} {os.getpid()}", keep="")
        self.path = folder / f"{name}-{secrets.token_hex(4)}.jsonl"
        self._descriptor = -1
        self._size = 0

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the records and flush them to the disk. Raises RunError if that fails; earlier records stay."""
        data = memoryview(b"".join(map(encode, records)))
        try:
            if self._descriptor < 0:
                self._open()
            done = 0
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
            os.fsync(self._descriptor)
        except OSError as error:
            self._undo()
            raise RunError(
                f"cannot write to {self.path.name}: {error.strerror or error}. All earlier records are intact. "
                "When the file can be written again, run the same command: it continues"
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
        _sync_folder(self.path.parent)

    def _undo(self) -> None:
        """Cut off the records of the failed call; later ones would follow a torn line."""
        if self._descriptor >= 0:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError:
                self.close()


# Single checksummed files that never change


def create_once(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write a checksummed file, unless another process was first. Returns what the file holds in the end.

    The file appears as a whole or not at all, and never changes. Raises RunError if it cannot be written.
    """
    if path.exists():
        return read_created(path)
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(encode(record))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return read_created(path)
        except OSError:  # a file system without hard links
            if not path.exists():
                partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return read_created(path)


def read_created(path: Path, problem: Problem = _no_problem) -> dict[str, Any]:
    """The record that `create_once` wrote. Raises RunError if the file cannot be read, is damaged or has a `problem`."""
    try:
        record = decode(path.read_bytes().removesuffix(b"\n"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    reason = record if isinstance(record, str) else problem(record)
    if isinstance(record, str) or reason:
        raise RunError(f"{path} is damaged: {reason}. Move it away; the command that started the run creates it again")
    return record
