"""Connections to one server: only the headers that we want go out, and a reply comes back in time, bounded and without the key.

Whatever the server sends is the failure of that one call.
"""

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from noiser.http.keys import Redactor, redact_logs
from noiser.http.limits import MAX_BODY_BYTES, BoundedNetwork, CallLimits, read_body
from noiser.http.retry import Failure, parse_retry_after

SENT_HEADERS = ("host", "accept", "connection", "user-agent", "content-type", "content-length", "x-stainless-raw-response")
"""The headers that go out besides the key. The client would add others, some of them from the environment. The last one tells OpenAI's
client that we read the reply ourselves."""
READ_HEADERS = ("retry-after", "retry-after-ms")
"""The only headers of a reply that are used. The client never sees the others, so that none of them can make it fail."""
RETRYABLE = (408, 409, 429)
MAX_SHOWN = 10_000
"""Characters of a foreign text that are looked at for its excerpt."""


class Connection:
    """An HTTP client for one server, and the one key that is sent to it and stored nowhere else. Safe for threads."""

    def __init__(self, key: str | None, *, trust_env: bool, max_body: int = MAX_BODY_BYTES) -> None:
        """Open nothing yet.

        trust_env  False ignores the proxies of the environment, as for a server of our own
        max_body   bytes of a reply's body after decompression
        """
        import openai

        def keep_wanted_headers(request: Any) -> None:
            for name in [name for name in request.headers if name.lower() not in SENT_HEADERS]:
                del request.headers[name]
            if key is not None:
                request.headers["Authorization"] = f"Bearer {key}"

        self.redact = Redactor(key)
        self._limits = CallLimits(max_body)
        self.client: Any = openai.DefaultHttpxClient(
            trust_env=trust_env,
            follow_redirects=False,
            event_hooks={"request": [keep_wanted_headers], "response": [self._read_bounded]},
        )
        """The client of httpx. Every call with it has to stand inside `bounded`."""
        _bound_connections(self.client, self._limits)
        self._restore_logs = redact_logs(self.redact)

    @contextmanager
    def bounded(self, seconds: float) -> Iterator[None]:
        """Inside, a call may take that many seconds, and its body so many bytes.

        The time does not hold for the look-up of the host's address, which the operating system bounds.
        """
        with self._limits.of_call(seconds):
            yield

    def call(self, method: str, url: str, body: bytes | None, seconds: float) -> bytes | Failure:
        """Make one call with a JSON body, or without one, and return the body of a reply of status 2xx. What goes wrong is returned."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        with self.bounded(seconds):
            try:
                reply = self.client.request(method, url, content=body, headers=headers, timeout=seconds)
                content = reply.content
            except Exception as error:  # noqa: BLE001  (what a server makes the client raise costs this one call alone)
                return self.failure(error, seconds)
        return content if reply.is_success else parse_failure(reply.status_code, content, reply.headers, self.redact)

    def failure(self, error: Exception, seconds: float) -> Failure:
        """Say what an exception of the client means. It has to be called inside `bounded`."""
        exceeded = self._limits.exceeded
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"APITimeoutError", "TimeoutException"} or (exceeded and exceeded.kind == "timeout"):
            return Failure("timeout", f"no whole reply within {seconds:.3g} s", retryable=True)
        if exceeded:
            return Failure(exceeded.kind, str(exceeded), retryable=True)
        if kinds & {"APIConnectionError", "TransportError"}:
            return Failure("connection", f"no connection: {excerpt(str(error.__cause__ or error), self.redact)}", retryable=True)
        return Failure("malformed", f"the reply cannot be read: {excerpt(f'{type(error).__name__}: {error}', self.redact)}", retryable=True)

    def _read_bounded(self, response: Any) -> None:
        """Read the whole body within the limits, and leave the client nothing else of the reply but what is used."""
        http = importlib.import_module(type(response).__module__.split(".")[0])  # httpx or its successor, whichever the client uses
        headers = {name: response.headers[name] for name in READ_HEADERS if name in response.headers}
        body = read_body(iter(response.stream), response.headers.get("content-encoding", ""), self._limits)
        response.stream.close()
        response.stream = http.ByteStream(body)
        response.headers = http.Headers({**headers, "content-type": "application/json"})

    def close(self) -> None:
        """Close the connections, and remove the filters from the client's loggers."""
        self.client.close()
        self._restore_logs()


def _bound_connections(client: Any, limits: CallLimits) -> None:
    """Let all connections of the client, with and without a proxy, keep to the limits.

    The client has no public way to set the network backend and still find the environment's proxies. If a later version has other
    attributes, this fails at once.
    """
    for transport in (client._transport, *client._mounts.values()):
        if transport is not None:
            transport._pool._network_backend = BoundedNetwork(transport._pool._network_backend, limits)


def parse_failure(status: int, body: bytes, headers: Mapping[str, str], redact: Redactor) -> Failure:
    """Say what a status other than 2xx means."""
    error = _error_object(body)
    message = error.get("message")
    text = excerpt(message if isinstance(message, str) else body, redact)
    code = " ".join(redact(value) for name in ("code", "param", "type") if isinstance(value := error.get(name), str))
    retryable = (status in RETRYABLE or status >= 500) and status != 501 and "insufficient_quota" not in code
    wait = parse_retry_after(headers) if retryable else None
    return Failure(str(status), f"it answered {status}" + (f": {text}" if text else ""), retryable, wait, code)


def _error_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    error = value.get("error", value) if isinstance(value, dict) else {}
    return error if isinstance(error, dict) else {"message": error}


def excerpt(text: str | bytes, redact: Redactor) -> str:
    """Return the beginning of a foreign text on one line, without the key and without control codes."""
    redacted = redact(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
    line = " ".join("".join(character if character.isprintable() else " " for character in redacted[:MAX_SHOWN]).split())
    return line if len(line) <= 300 else f"{line[:300]}..."
