"""Run work that came with a model, such as a chat template, within limits of time, memory and output that it cannot escape."""

import gc
import json
import os
import select
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

SECONDS = 10.0
MEMORY = 1 << 30
OUTPUT = 32 << 20
"""Limits: seconds on the clock, bytes of memory beyond those in use, bytes of JSON."""


class BoundedError(Exception):
    """The work failed, or went beyond a limit. The text says which."""


def run_bounded(work: Callable[[], Any], *, seconds: float = SECONDS) -> Any:
    """What `work()` returns, as JSON gives it back. The work runs in a forked process, which is killed at the time limit.

    The work may not use threads or devices. Where processes cannot be forked (Windows), it runs here without limits.
    Raises BoundedError.
    """
    if not hasattr(os, "fork"):
        return _attempt(work)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of locks held by other threads: the time limit covers it
        process = os.fork()
    if process == 0:
        _run_and_exit(work, writing, seconds)
    os.close(writing)
    try:
        content = _read(reading, time.monotonic() + seconds)
    finally:
        os.close(reading)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return _unpack(content)


def _attempt(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        raise BoundedError(f"{type(error).__name__}: {error}") from error


def _unpack(content: bytes) -> Any:
    try:
        result = json.loads(content)
    except ValueError as error:
        raise BoundedError(f"it ended without a result: it needs more than {MEMORY:,} bytes of memory") from error
    if "error" in result:
        raise BoundedError(result["error"])
    return result["result"]


def _read(descriptor: int, deadline: float) -> bytes:
    """All that the process writes. Raises BoundedError at the deadline, or if it is too much."""
    content = bytearray()
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise BoundedError(f"it takes more than {SECONDS:g} s")
        if not (part := os.read(descriptor, 1 << 20)):
            return bytes(content)
        content += part
        if len(content) > OUTPUT:
            raise BoundedError(f"its result has more than {OUTPUT:,} bytes")


def _run_and_exit(work: Callable[[], Any], descriptor: int, seconds: float) -> NoReturn:
    """In the forked process: run, write the result, and exit without any clean-up, which belongs to the parent."""
    try:
        gc.disable()
        _limit(seconds)
        try:
            content = json.dumps({"result": work()})
        except BaseException as error:  # noqa: BLE001  (the parent raises it)
            content = json.dumps({"error": f"{type(error).__name__}: {str(error)[:400]}"})
        data = memoryview(content.encode())
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os._exit(0)


def _limit(seconds: float) -> None:
    import resource

    _lower(resource.RLIMIT_CPU, int(seconds) + 1)
    sizes = Path("/proc/self/statm")
    if sizes.exists():
        _lower(resource.RLIMIT_AS, int(sizes.read_text().split()[0]) * resource.getpagesize() + MEMORY)


def _lower(limit: int, value: int) -> None:
    import resource

    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))
