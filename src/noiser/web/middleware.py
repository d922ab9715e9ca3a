"""The layer between the network and the app: access checks, bounded bodies, security headers on every response, one log line each."""

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noiser.errors import OptionError
from noiser.views.labels import visible
from noiser.web.errors import HttpError, to_http_error

logger = logging.getLogger("noiser.web")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

MIN_TOKEN_LENGTH = 16
"""Characters of an access token."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MAX_BODY = 256 * 1024
"""Bytes of a request's body."""
MAX_DRAINED = 16 * MAX_BODY
"""Bytes that are read of a body that is too long, so that its client reads the error. A longer body is cut off."""
BODY_TIMEOUT = 10.0
"""Seconds in which a body has to arrive."""
MAX_LOGGED_PATH = 100
"""Characters of a path in the log."""
FRAMING = "FramingError"
"""The class of the error for a body whose end is not certain."""
SECURITY_HEADERS = {
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}
"""On every response that does not set its own."""


class ClientDisconnected(Exception):  # noqa: N818  (not an error: a client may leave at any time)
    """The client left before its request was complete or answered."""


class SecurityMiddleware:
    """An ASGI app around another one. The body of a POST to /api/ is read and checked before the inner app runs."""

    def __init__(self, app: App, access: "Access") -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _Response(send)
        try:
            _check_framing(scope["headers"])
            self._access.check(dict(scope))
            if scope["method"] == "POST" and scope["path"].startswith("/api/"):
                receive = _replay(await read_body(scope, receive), receive)
            await self._app(scope, receive, response.send)
        except ClientDisconnected:
            response.disconnected = True
        except Exception as error:  # noqa: BLE001  (the client gets one sentence, the log gets the traceback)
            http_error = to_http_error(error)
            if not response.status:
                await send_error(http_error, response.send)
        finally:
            path, milliseconds = visible(scope["path"][:MAX_LOGGED_PATH]), 1000 * (time.perf_counter() - response.started_at)
            status = "left" if response.disconnected else response.status
            logger.info("%s %s %s %.0f ms", scope["method"], path, status, milliseconds)


class _Response:
    """A response under way. It adds our headers and remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started_at = time.perf_counter()
        self.status = 0
        self.disconnected = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", []))
            names = {name.lower() for name, _ in headers}
            message = {**message, "headers": [*headers, *(pair for pair in SECURITY_HEADERS.items() if pair[0] not in names)]}
        await self._send(message)


async def send_error(error: HttpError, send: Send) -> None:
    """Send an error as the response. If the rest of the request was not read, the connection closes."""
    body = error.to_json()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (408, 413) or error.kind == FRAMING:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _check_framing(headers: Headers) -> None:
    """Refuse a body with two lengths: servers disagree about where it ends, and the rest may be read as another request."""
    names = {name.lower() for name, _ in headers}
    if b"content-length" in names and b"transfer-encoding" in names:
        raise HttpError(400, FRAMING, "a request has both Content-Length and Transfer-Encoding: send one of them")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body of a request.

    Raises HttpError: 415 if it is not JSON, 413 if it is too long, 408 if it takes too long. Raises ClientDisconnected.
    """
    headers = dict(scope["headers"])
    types = sum(name == b"content-type" for name, _ in scope["headers"])
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if types > 1 or kind != b"application/json" or headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise HttpError(415, "ContentTypeError", "a request's body is JSON: Content-Type: application/json, not compressed")
    length = headers.get(b"content-length", b"")
    too_long = HttpError(413, "BodyTooLong", f"the prompt is too long: a request has at most {MAX_BODY:,} bytes in all")
    if length.isdigit() and int(length) > MAX_DRAINED:
        raise too_long
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            body = await _read_all(receive)
    except TimeoutError as error:
        raise HttpError(408, "BodyTooSlow", f"a request's body has to arrive within {BODY_TIMEOUT:g} s") from error
    if body is None:
        raise too_long
    return body


async def _read_all(receive: Receive) -> bytes | None:
    """All parts of a body; None if it is too long."""
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= MAX_DRAINED:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= MAX_BODY:
            parts.append(part)
        else:
            parts.clear()
    return b"".join(parts) if size <= MAX_BODY else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more, then whatever `receive` gives."""
    replayed = False

    async def again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


@dataclass(frozen=True)
class Access:
    """Which requests are allowed, decided from their headers before anything else is read."""

    names: frozenset[str] = frozenset()
    """Names of this server, besides the loopback names and the address that the client reached. NAME is valid with this server's
    port and without a port, NAME:PORT exactly as it stands."""
    token: str | None = field(default=None, repr=False)
    """The token that every request to /api/ has to carry; None: no token is needed."""

    def check(self, scope: dict[str, Any]) -> None:
        """Raises HttpError: 421 for a foreign Host, 403 for a page of another origin, 401 without the token."""
        headers: Headers = scope["headers"]
        host = _single(headers, b"host")
        if host is None or host.lower() not in self._hosts(scope["server"]):
            raise HttpError(421, "HostError", "this server does not go by that name; noiser serve --allowed-host NAME allows it")
        api = scope["path"].startswith("/api/")
        _check_origin(headers, host, strict=api or scope["method"] not in ("GET", "HEAD"))
        if api and self.token is not None:
            self._check_token(headers)

    def _hosts(self, server: tuple[str, int]) -> set[str]:
        """Every valid Host header. A page of another name that resolves to this machine (DNS rebinding) sends that other name."""
        address, port = _normal_address(server[0]), server[1]
        names = {*LOOPBACK_NAMES, f"[{address}]" if ":" in address else address, *self.names}
        with_port = {f"{name}:{port}" for name in names if not _has_port(name)}
        without_port = names if port == 80 else self.names
        return with_port | without_port

    def _check_token(self, headers: Headers) -> None:
        scheme, _, token = (_single(headers, b"authorization") or "").partition(" ")
        assert self.token is not None
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.token.encode()):
            raise HttpError(401, "TokenError", "this server needs its token: Authorization: Bearer TOKEN")


def _check_origin(headers: Headers, host: str, *, strict: bool) -> None:
    """Refuse requests of foreign pages, which browsers mark. `strict` refuses links from foreign pages as well."""
    origin, site = _single(headers, b"origin"), _single(headers, b"sec-fetch-site")
    foreign = origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")
    if foreign or (strict and site not in (None, "same-origin", "none")):
        raise HttpError(403, "OriginError", "only this server's own page may ask it")


def _single(headers: Headers, name: bytes) -> str | None:
    """The header's value; None if it is absent, and a newline, which matches nothing, if it is there more than once."""
    values = [value.decode("latin-1") for key, value in headers if key == name]
    return None if not values else values[0] if len(values) == 1 else "\n"


def _normal_address(address: str) -> str:
    """An address without its zone. An IPv4 address that came through an IPv6 socket becomes plain IPv4."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _has_port(name: str) -> bool:
    return name.rpartition(":")[2].isdigit() and not name.endswith("]")


def parse_allowed_host(name: str) -> str:
    """A value of `--allowed-host` in its normal form. Raises OptionError if it is not NAME or NAME:PORT."""
    normal = name.strip().lower()
    bare = normal.removeprefix("[").partition("]")[0] if normal.startswith("[") else normal
    if _is_address(bare) and ":" in bare:
        return normal if normal.startswith("[") else f"[{normal}]"
    if not normal or any(character in normal for character in "/*@?# \t") or normal.count(":") > 1:
        raise OptionError(f"--allowed-host wants NAME or NAME:PORT, as it stands in an address; got {name!r}")
    return normal


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def check_token(token: str) -> str:
    """The token. Raises OptionError if it is too short or cannot be sent in a header."""
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise OptionError(f"NOISER_TOKEN wants at least {MIN_TOKEN_LENGTH} printable ASCII characters without spaces")
    return token
