"""What stands between the network and the app: who may ask, how much, security headers on every answer, a line in the log."""

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noiser.errors import OptionError
from noiser.views.escape import visible
from noiser.web.errors import Refusal, refusal_of

SHORTEST = 16
"""Characters of a token."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Access:
    """Checks a request's headers, before anything else of it is read."""

    names: frozenset[str] = frozenset()
    """Beside the loopback names and the address that a client reached: NAME, with our port or none; or NAME:PORT as it is."""
    token: str | None = field(default=None, repr=False)
    """What every /api/ request has to show; None: nothing."""

    def check(self, scope: dict[str, Any]) -> None:
        """Raises Refusal: 421 for a foreign Host, 403 for a foreign page, 401 without the token."""
        headers: Headers = scope["headers"]
        host = _only(headers, b"host")
        if host is None or host.lower() not in self._hosts(scope["server"]):
            raise Refusal(421, "HostError", "this server does not go by that name; noiser serve --allowed-host NAME lets it")
        api = scope["path"].startswith("/api/")
        _check_origin(headers, host, strict=api or scope["method"] not in ("GET", "HEAD"))
        if api and self.token is not None:
            self._check_token(headers)

    def _hosts(self, server: tuple[str, int]) -> set[str]:
        """A page of another name that resolves to us (DNS rebinding) sends that name; an address is only ever our own."""
        address, port = _plain(server[0]), server[1]
        own = {*LOOPBACK, f"[{address}]" if ":" in address else address, *self.names}
        with_port = {f"{name}:{port}" for name in own if not _has_port(name)}
        without = own if port == 80 else self.names
        return with_port | without

    def _check_token(self, headers: Headers) -> None:
        given = _only(headers, b"authorization") or ""
        kind, _, shown = given.partition(" ")
        assert self.token is not None
        if kind.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), self.token.encode()):
            raise Refusal(401, "TokenError", "this server wants its token: Authorization: Bearer TOKEN")


def _check_origin(headers: Headers, host: str, *, strict: bool) -> None:
    """A browser says where the page comes from that asks; `strict`: links from elsewhere are refused too."""
    origin, site = _only(headers, b"origin"), _only(headers, b"sec-fetch-site")
    foreign = origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")
    if foreign or (strict and site not in (None, "same-origin", "none")):
        raise Refusal(403, "OriginError", "only this server's own page may ask it")


def _only(headers: Headers, name: bytes) -> str | None:
    """The header's value; None where it is not there, and what fits nothing where it is there more than once."""
    found = [value.decode("latin-1") for key, value in headers if key == name]
    return None if not found else found[0] if len(found) == 1 else "\n"


def _plain(address: str) -> str:
    """An IPv4 address that came through an IPv6 socket as itself, and no zone."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(getattr(found, "ipv4_mapped", None) or found)


def _has_port(name: str) -> bool:
    return name.rpartition(":")[2].isdigit() and not name.endswith("]")


def allowed_name(name: str) -> str:
    """A name for `--allowed-host`. Raises OptionError where it is none."""
    found = name.strip().lower()
    bare = found.removeprefix("[").partition("]")[0] if found.startswith("[") else found
    if _is_address(bare) and ":" in bare:
        return found if found.startswith("[") else f"[{found}]"
    if not found or any(character in found for character in "/*@?# \t") or found.count(":") > 1:
        raise OptionError(f"--allowed-host wants NAME or NAME:PORT, as it stands in an address; got {name!r}")
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def checked_token(token: str) -> str:
    """A token that was set by hand. Raises OptionError where it is short or cannot be sent as it is."""
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise OptionError(f"NOISER_TOKEN wants at least {SHORTEST} printable ASCII characters without spaces")
    return token


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MOST = 256 * 1024
"""Bytes of a body."""
SWALLOWED = 16 * MOST
"""Bytes read of one that is too long, so that its client hears why; one that is longer is cut off."""
WITHIN = 10.0
"""Seconds for a body to come."""


class ClientDisconnected(Exception):  # noqa: N818  (it happens)
    """The client left before its request was complete."""


async def body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises Refusal: 415 where it is no JSON, 413 where it is too long, 408 where it takes too long; or Left."""
    headers = dict(scope["headers"])
    twice = sum(name == b"content-type" for name, _ in scope["headers"]) > 1
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if twice or kind != b"application/json" or headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(415, "ContentTypeError", "a request's body is JSON: Content-Type: application/json, not compressed")
    length = headers.get(b"content-length", b"")
    too_long = Refusal(413, "BodyTooLong", f"the prompt is too long: a request has at most {MOST:,} bytes in all")
    if length.isdigit() and int(length) > SWALLOWED:
        raise too_long
    try:
        async with asyncio.timeout(WITHIN):
            found = await _whole(receive)
    except TimeoutError as error:
        raise Refusal(408, "BodyTooSlow", f"a request's body comes within {WITHIN:g} s") from error
    if found is None:
        raise too_long
    return found


async def _whole(receive: Receive) -> bytes | None:
    """All of it; None where it is too long."""
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= SWALLOWED:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= MOST:
            parts.append(part)
        else:
            parts.clear()
    return b"".join(parts) if size <= MOST else None


logger = logging.getLogger("noiser.web")
HEADERS = {
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}
"""On every answer that does not set its own."""
LONGEST = 100
"""Characters of a path in the log."""


App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """An ASGI app around another. A POST to /api/ has its whole body read and checked before the app hears of it."""

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            self._access.check(dict(scope))
            if scope["method"] == "POST" and scope["path"].startswith("/api/"):
                receive = _replayed(await body(scope, receive), receive)
            await self._app(scope, receive, answer.send)
        except ClientDisconnected:
            answer.left = True
        except Exception as error:  # noqa: BLE001  (whatever it is, the client gets a sentence and the log the rest)
            refusal = refusal_of(error)
            if not answer.status:
                await refused(refusal, answer.send)
        finally:
            path, took = visible(scope["path"][:LONGEST]), 1000 * (time.perf_counter() - answer.begun)
            logger.info("%s %s %s %.0f ms", scope["method"], path, "left" if answer.left else answer.status, took)


class _Answer:
    """An answer on its way, with our headers added."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = time.perf_counter()
        self.status = 0
        self.left = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name.lower() for name, _ in message.get("headers", [])}
            message = {**message, "headers": [*message.get("headers", []), *(pair for pair in HEADERS.items() if pair[0] not in own)]}
        await self._send(message)


def _replayed(raw: bytes, receive: Receive) -> Receive:
    """The body that was read, once more; then what else there is to hear."""
    heard = False

    async def again() -> Message:
        nonlocal heard
        if heard:
            return await receive()
        heard = True
        return {"type": "http.request", "body": raw, "more_body": False}

    return again


async def refused(refusal: Refusal, send: Send) -> None:
    """Send a refusal. Where the rest of a request was not read, the connection ends with it."""
    raw = refusal.body()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})
