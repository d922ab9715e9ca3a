"""What stands between the network and the app: who may ask, how much, security headers on every answer, a line in the log."""

import logging
import time
from collections.abc import Awaitable, Callable

from noiser.views.escape import visible
from noiser.web.access import Access
from noiser.web.intake import Left, Message, Receive, Scope, Send, body
from noiser.web.refusal import Refusal, refusal_of

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
        except Left:
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
