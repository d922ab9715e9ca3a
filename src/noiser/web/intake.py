"""A request's body: JSON, not too long, not too slow."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from noiser.web.refusal import Refusal

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


class Left(Exception):  # noqa: N818  (it happens)
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
            raise Left
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= MOST:
            parts.append(part)
        else:
            parts.clear()
    return b"".join(parts) if size <= MOST else None
