"""One call over HTTP: only the headers that we want go out, and the reply comes back in time, bounded and without the key.

Whatever the server sends is the failure of that one call.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from noiser.judges.backend import Completion, Message
from noiser.judges.keys import KEY, OPENAI, OPENAI_KEY, Redactor, redact_logs
from noiser.judges.limits import BoundedNetwork, CallLimits, read_body
from noiser.judges.retry import Failure, parse_retry_after

SENT_HEADERS = ("host", "accept", "connection", "user-agent", "content-type", "content-length", "x-stainless-raw-response")
"""The headers that go out besides the key. The client would add others, some of them from the environment. The last one tells the
client that we read the reply ourselves."""
READ_HEADERS = ("retry-after", "retry-after-ms")
"""The only headers of a reply that are used. The client never sees the others, so that none of them can make it fail."""
RETRYABLE = (408, 409, 429)
FILTERED = ("content_filter", "content_policy_violation")
"""A server's codes for a question that it does not pass on to the model."""


class Transport:
    """A server that completes chats, and the one key that is sent to it and stored nowhere else. Safe for threads."""

    def __init__(self, url: str, key: str | None, *, trust_env: bool) -> None:
        import openai

        def keep_wanted_headers(request: Any) -> None:
            for name in [name for name in request.headers if name.lower() not in SENT_HEADERS]:
                del request.headers[name]
            if key is not None:
                request.headers["Authorization"] = f"Bearer {key}"

        self.redact = Redactor(key)
        self._limits = CallLimits()
        http = openai.DefaultHttpxClient(
            trust_env=trust_env,
            follow_redirects=False,
            event_hooks={"request": [keep_wanted_headers], "response": [self._read_bounded]},
        )
        _bound_connections(http, self._limits)
        self._client = openai.OpenAI(api_key="sent by us", base_url=url, max_retries=0, http_client=http)
        self._restore_logs = redact_logs(self.redact)

    def send(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any], seconds: float) -> Completion | Failure:
        """Make one call within so many seconds, whatever the server does. What goes wrong is returned as a Failure.

        The time does not hold for the look-up of the host's address, which the operating system bounds.
        """
        with self._limits.of_call(seconds):
            try:
                return self._send(model, messages, parameters, seconds)
            except Exception as error:  # noqa: BLE001  (what a server makes the client raise costs this one call alone)
                return self._failure(error, seconds)

    def _send(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any], seconds: float) -> Completion | Failure:
        import openai

        create = self._client.chat.completions.with_raw_response.create
        try:
            reply = create(model=model, messages=cast(Any, list(messages)), extra_body=dict(parameters), timeout=seconds)
        except openai.APIStatusError as error:
            failure = parse_failure(error.status_code, error.response.content, error.response.headers, self.redact)
            filtered = failure.kind == "400" and any(code in failure.code for code in FILTERED)
            return Completion(failure.message, "refusal", model) if filtered else failure
        return parse_completion(reply.http_response.content, model, self.redact)

    def _failure(self, error: Exception, seconds: float) -> Failure:
        """Say what an exception of the client means."""
        import openai

        exceeded = self._limits.exceeded
        if isinstance(error, openai.APITimeoutError) or (exceeded and exceeded.kind == "timeout"):
            return Failure("timeout", f"no whole reply within {seconds:.3g} s", retryable=True)
        if exceeded:
            return Failure(exceeded.kind, str(exceeded), retryable=True)
        if isinstance(error, openai.APIConnectionError):
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
        self._client.close()
        self._restore_logs()


def _bound_connections(client: Any, limits: CallLimits) -> None:
    """Let all connections of the client, with and without a proxy, keep to the limits.

    The client has no public way to set the network backend and still find the environment's proxies. If a later version has other
    attributes, this fails at once.
    """
    for transport in (client._transport, *client._mounts.values()):
        if transport is not None:
            transport._pool._network_backend = BoundedNetwork(transport._pool._network_backend, limits)


def parse_completion(body: bytes, model: str, redact: Redactor) -> Completion | Failure:
    """Read the completion from a reply of status 200. Anything else in the body (a page, an error, no choices, half a reply) fails.

    The model's reasoning is left out. `model` is the id to record when the server returns none.
    """
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        message = choice["message"]
        texts: list[Any] = [message.get("content"), message.get("refusal"), choice.get("finish_reason"), reply.get("model")]
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        texts = [...]  # neither a text nor None
    if not all(text is None or isinstance(text, str) for text in texts):
        return Failure("malformed", f"the reply is no chat completion: {excerpt(body, redact) or 'it is empty'}", retryable=True)
    content, refusal, finish, answering_model = (redact(text or "") for text in texts)
    refused = bool(refusal) or finish in FILTERED
    return Completion(refusal or content, "refusal" if refused else finish or "unknown", answering_model or model)


def parse_failure(status: int, body: bytes, headers: Mapping[str, str], redact: Redactor) -> Failure:
    """Say what a status other than 2xx means. `advice` says what to do about it."""
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


MAX_SHOWN = 10_000
"""Characters of a foreign text that are looked at for its excerpt."""


def excerpt(text: str | bytes, redact: Redactor) -> str:
    """Return the beginning of a foreign text on one line, without the key and without control codes."""
    redacted = redact(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
    line = " ".join("".join(character if character.isprintable() else " " for character in redacted[:MAX_SHOWN]).split())
    return line if len(line) <= 300 else f"{line[:300]}..."


def advice(failure: Failure, model: str, url: str, has_key: bool) -> str | None:
    """Say what to do if every call would fail in this way. None: other calls may succeed."""
    if failure.kind in ("401", "403"):
        names = f"{KEY}, or {OPENAI_KEY}" if url == OPENAI else KEY
        return f"it does not accept the key: set {names} to a valid key" if has_key else f"it wants a key: set {names}"
    if failure.kind == "402" or "insufficient_quota" in failure.code:
        return "the account has no credit left: add credit, or use another judge"
    if failure.kind in ("404", "405", "410"):
        reason = f"it knows no model {model!r}, or {url}/chat/completions does not exist"
        return f"{reason}: check the model's name and --judge-url, which usually ends in /v1"
    if failure.kind.startswith("3"):
        return f"{url} has moved: give --judge-url the new address, because the key is sent to no other address"
    return None
