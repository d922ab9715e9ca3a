"""The revision of a local model: a SHA-256 of every file that changes its numbers."""

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from noiser.errors import ModelError, RunError
from noiser.lm.checkpoint import model_files
from noiser.storage import cache_folder, create_once, read_created

REMEMBER = 8 << 20
"""Files of this many bytes or more are hashed once and then remembered. Smaller ones are hashed as fast as they are looked up."""
SETTLED = 2.0
"""Seconds since a file's last change, after which any further change gets another time stamp."""


def folder_revision(folder: Path, *, code: bool = False) -> str:
    """A hash of names and contents of all files in the folder that change numbers. Other files and the folder's path do not count.

    With `code` it covers the Python files too. Raises ModelError as `model_files` does.
    """
    digest = hashlib.sha256()
    for file in model_files(folder, code=code):
        digest.update(f"{file.relative_to(folder).as_posix()} {file_digest(file)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def file_digest(file: Path) -> str:
    """The SHA-256 of a whole file. That of a large file is remembered in the user's cache, by device, inode, size and times."""
    try:
        before = _key(file)
        if before[0] < REMEMBER:
            return _sha256(file)
        record = cache_folder() / "digests" / hashlib.sha256(repr(before).encode()).hexdigest()[:32]
        return _remembered(record) or _hash_and_remember(file, before, record)
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error


def _key(file: Path) -> tuple[int, ...]:
    """Size, times in nanoseconds, inode and device. The change time also tells apart contents whose modification time was reset."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _remembered(record: Path) -> str | None:
    """The hash in a record. None if there is no record, or if it is damaged."""
    try:
        return str(read_created(record)["sha256"]) if record.exists() else None
    except (RunError, KeyError, OSError):
        return None


def _hash_and_remember(file: Path, before: tuple[int, ...], record: Path) -> str:
    digest = _sha256(file)
    settled = time.time() - max(before[1:3]) / 1e9 > SETTLED
    if settled and before == _key(file):
        with suppress(RunError, OSError):  # a cache that cannot be written costs time only
            create_once(record, {"sha256": digest})
    return digest


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
