"""The limits of one HTTP call: its time on the wall clock, the bytes that it reads, and the bytes that it decodes to.

An HTTP client's own timeouts hold for each read, so a server that sends a byte now and then outlives them, in its headers as in its
body. Here every read and write of a call gets the time that is left, whatever the server sends.
"""

import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MAX_BODY_BYTES = 4 << 20
"""Bytes of a body after decompression, unless a connection says otherwise. A chat completion has a few thousand."""
_WRITE_BYTES = 1 << 16
_DECODED_BYTES = 1 << 16
_GZIP_OR_ZLIB = 47
"""zlib's window size that recognises both headers."""


class LimitExceededError(Exception):
    """A call reached one of its limits. `kind` is the Failure's kind: `timeout` or `malformed`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class CallLimits(threading.local):
    """The limits of the call that runs in the current thread."""

    deadline = float("inf")
    exceeded: LimitExceededError | None = None
    """The limit that the latest call reached. The client may report it as another error."""

    def __init__(self, max_body: int = MAX_BODY_BYTES) -> None:
        self.max_body = max_body
        self.max_read = 2 * max_body
        """Bytes that a call reads in all: status lines, headers, informational responses and the body with its framing."""
        self.bytes_left = self.max_read

    @contextmanager
    def of_call(self, seconds: float) -> Iterator[None]:
        """Inside, a call may take that many seconds."""
        self.deadline, self.bytes_left, self.exceeded = time.monotonic() + seconds, self.max_read, None
        try:
            yield
        finally:
            self.deadline, self.bytes_left = float("inf"), self.max_read

    def seconds_left(self) -> float | None:
        """Return the seconds that are left, or None outside a call. Raises LimitExceededError if no time is left."""
        if self.deadline == float("inf"):
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            self.exceed("timeout", "no time is left")
        return left

    def count(self, size: int) -> None:
        """Count bytes that were read. Raises LimitExceededError if they are too many."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            self.exceed("malformed", f"the reply has more than {self.max_read >> 20} MiB")

    def exceed(self, kind: str, message: str) -> None:
        """Raise LimitExceededError, and remember it."""
        self.exceeded = LimitExceededError(kind, message)
        raise self.exceeded


class BoundedNetwork:
    """A network backend of httpcore whose connections keep to the limits."""

    def __init__(self, backend: Any, limits: CallLimits) -> None:
        self._backend, self._limits = backend, limits

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> "BoundedStream":  # noqa: ARG002
        """Connect to the first address of the host that answers. All addresses together get the time that is left."""
        self._limits.seconds_left()
        addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        for address in addresses[:-1]:
            try:
                return self._connect(address, port, options)
            except LimitExceededError:
                raise
            except Exception:  # noqa: BLE001, S112  (the next address may answer; the last one's error is raised)
                continue
        return self._connect(addresses[-1], port, options)

    def _connect(self, address: str, port: int, options: dict[str, Any]) -> "BoundedStream":
        stream = self._backend.connect_tcp(address, port, timeout=self._limits.seconds_left(), **options)
        return BoundedStream(stream, self._limits)


class BoundedStream:
    """A network stream of httpcore that keeps to the limits."""

    def __init__(self, stream: Any, limits: CallLimits) -> None:
        self._stream, self._limits = stream, limits

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  (the signature of httpcore)
        """Read what is there, within the time that is left."""
        data = self._stream.read(max_bytes, timeout=self._limits.seconds_left())
        self._limits.count(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  (likewise)
        """Write everything, in parts that each get the time that is left."""
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._stream.write(buffer[start : start + _WRITE_BYTES], timeout=self._limits.seconds_left())

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> "BoundedStream":  # noqa: ARG002
        """Return the stream over TLS. The handshake gets the time that is left."""
        return BoundedStream(self._stream.start_tls(ssl_context, server_hostname, timeout=self._limits.seconds_left()), self._limits)

    def get_extra_info(self, info: str) -> Any:
        """Return what the stream itself says."""
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


def read_body(parts: Iterator[bytes], encoding: str, limits: CallLimits) -> bytes:
    """Return a body, decompressed. Raises LimitExceededError if it is too large or its encoding cannot be read."""
    body = bytearray()
    for part in _decoded(parts, encoding.strip().lower(), limits):
        body += part
        if len(body) > limits.max_body:
            limits.exceed("malformed", f"the reply has more than {limits.max_body >> 20} MiB")
    return bytes(body)


def _decoded(parts: Iterator[bytes], encoding: str, limits: CallLimits) -> Iterator[bytes]:
    """Yield a body's decoded bytes, a bounded number at a time."""
    if encoding in ("", "identity"):
        yield from parts
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        limits.exceed("malformed", f"the reply is compressed with {encoding[:40]!r}, which was not asked for")
    decoder = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
    for part in parts:
        rest = part
        while rest:
            try:
                yield decoder.decompress(rest, _DECODED_BYTES)
            except zlib.error as error:
                limits.exceed("malformed", f"the reply cannot be decompressed: {error}")
            rest = decoder.unconsumed_tail
