"""One chat completion over HTTP, and what its failures mean for a judge."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from noiser.http.connection import Connection, excerpt, parse_failure
from noiser.http.keys import Redactor
from noiser.http.retry import Failure
from noiser.judges.backend import Completion, Message
from noiser.judges.keys import KEY, OPENAI, OPENAI_KEY

FILTERED = ("content_filter", "content_policy_violation")
"""A server's codes for a question that it does not pass on to the model."""


class Transport:
    """A server that completes chats. Safe for threads."""

    def __init__(self, url: str, key: str | None, *, trust_env: bool) -> None:
        import openai

        self._connection = Connection(key, trust_env=trust_env)
        self.redact = self._connection.redact
        self._client = openai.OpenAI(api_key="sent by us", base_url=url, max_retries=0, http_client=self._connection.client)

    def send(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any], seconds: float) -> Completion | Failure:
        """Make one call within so many seconds, whatever the server does. What goes wrong is returned as a Failure."""
        with self._connection.bounded(seconds):
            try:
                return self._send(model, messages, parameters, seconds)
            except Exception as error:  # noqa: BLE001  (what a server makes the client raise costs this one call alone)
                return self._connection.failure(error, seconds)

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

    def close(self) -> None:
        """Close the connections, and remove the filters from the client's loggers."""
        self._client.close()
        self._connection.close()


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
