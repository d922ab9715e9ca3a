"""One call over HTTP: what goes out, which is what we want and nothing else, and what comes back, within its time and without the key."""

import importlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from noiser.judges.backend import Completion, Message
from noiser.judges.keys import KEY, OPENAI, OPENAI_KEY, Redactor, redact_logs
from noiser.judges.retry import Failure, retry_after

AGAIN = (408, 409, 429)
FILTERED = ("content_filter", "content_policy_violation")
"""A server's codes for a question that it refuses to pass on to the model."""


def completion(body: bytes, model: str, redact: Redactor) -> Completion | Failure:
    """The completion in a reply of status 200; a failure where there is none: a page, an error, no choices, half of it.

    What a model thought before it answered is left out. `model` is whom it is taken for where the server does not say.
    """
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        message = choice["message"]
        texts: list[Any] = [message.get("content"), message.get("refusal"), choice.get("finish_reason"), reply.get("model")]
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        texts = [...]  # no text, and not None
    if not all(each is None or isinstance(each, str) for each in texts):
        return Failure("malformed", f"what came is no chat completion: {excerpt(body, redact) or 'nothing'}", again=True)
    content, refusal, finish, who = (redact(each or "") for each in texts)
    refused = bool(refusal) or finish in FILTERED
    return Completion(refusal or content, "refusal" if refused else finish or "unknown", who or model)


def failure(status: int, body: bytes, headers: Mapping[str, str], redact: Redactor) -> Failure:
    """What a status other than 2xx means. Whether there is anything to do about it, `advice` says."""
    error = _error(body)
    message = error.get("message")
    said = excerpt(message if isinstance(message, str) else body, redact)
    code = " ".join(redact(each) for name in ("code", "param", "type") if isinstance(each := error.get(name), str))
    again = (status in AGAIN or status >= 500) and status != 501 and "insufficient_quota" not in code
    wait = retry_after(headers) if again else None
    return Failure(str(status), f"it answered {status}" + (f": {said}" if said else ""), again, wait, code)


def _error(body: bytes) -> Mapping[str, Any]:
    """The error object of a reply, if there is one."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    inner = found.get("error", found) if isinstance(found, dict) else {}
    return inner if isinstance(inner, dict) else {"message": inner}


def excerpt(text: str | bytes, redact: Redactor) -> str:
    """The beginning of a text from outside, in one line, without the key and without control codes."""
    known = redact(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
    line = " ".join("".join(each if each.isprintable() else " " for each in known).split())
    return line if len(line) <= 300 else f"{line[:300]}..."


def advice(found: Failure, model: str, url: str, keyed: bool) -> str | None:
    """What to do where all calls would fail as this one did; None where others may not."""
    if found.kind in ("401", "403"):
        names = f"{KEY}, or {OPENAI_KEY}" if url == OPENAI else KEY
        return f"it does not take the key that it was sent: set {names} to one that it takes" if keyed else f"it wants a key: set {names}"
    if found.kind == "402" or "insufficient_quota" in found.code:
        return "the account has nothing left to pay with: fill it up, or ask another judge"
    if found.kind in ("404", "405", "410"):
        there = f"it knows no model {model!r}, or {url}/chat/completions is not there"
        return f"{there}: check the model's name and --judge-url, which mostly ends in /v1"
    if found.kind.startswith("3"):
        return f"{url} has moved: give --judge-url the new address, since a key is sent to no other"
    return None


LARGEST = 4 << 20
"""Bytes of a reply that are read."""
SENT = ("host", "accept", "connection", "user-agent", "content-type", "content-length", "x-stainless-raw-response")
"""The headers that go out besides the key. The client would add some of its own, and what it finds in the environment; by the last
one it knows that we read replies ourselves."""


class Transport:
    """A server that completes chats, and the one key that is sent to it and held nowhere else. Safe for threads."""

    def __init__(self, url: str, key: str | None, *, trust_env: bool) -> None:
        import openai

        def only_what_is_wanted(request: Any) -> None:
            for name in [name for name in request.headers if name.lower() not in SENT]:
                del request.headers[name]
            if key is not None:
                request.headers["Authorization"] = f"Bearer {key}"

        self.redact = Redactor(key)
        http = openai.DefaultHttpxClient(
            trust_env=trust_env,
            follow_redirects=False,
            event_hooks={"request": [only_what_is_wanted], "response": [_read_in_time]},
        )
        self._client = openai.OpenAI(api_key="sent by us", base_url=url, max_retries=0, http_client=http)
        self._leave_logs = redact_logs(self.redact)

    def send(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any], seconds: float) -> Completion | Failure:
        """Make one call. It takes at most so many seconds to be let in, as many to be answered, and as many for the rest."""
        import openai

        create = self._client.chat.completions.with_raw_response.create
        try:
            reply = create(model=model, messages=cast(Any, list(messages)), extra_body=dict(parameters), timeout=seconds)
        except openai.APITimeoutError:
            return Failure("timeout", f"no whole reply within {seconds:.3g} s", again=True)
        except openai.APIStatusError as error:
            found = failure(error.status_code, error.response.content, error.response.headers, self.redact)
            filtered = found.kind == "400" and any(code in found.code for code in FILTERED)
            return Completion(found.said, "refusal", model) if filtered else found
        except openai.APIConnectionError as error:
            return Failure("connection", f"no connection: {excerpt(str(error.__cause__ or error), self.redact)}", again=True)
        return completion(reply.http_response.content, model, self.redact)

    def close(self) -> None:
        """Close its connections, and leave the client's logs alone again."""
        self._client.close()
        self._leave_logs()


def _read_in_time(response: Any) -> None:
    """Read a body as a whole: the client's own limit is for each of its parts, so that one that drips would never end."""
    http = importlib.import_module(type(response).__module__.split(".")[0])  # httpx or its successor, whichever the client uses
    end = time.monotonic() + response.request.extensions["timeout"]["read"]
    parts, size = [], 0
    for part in response.stream:
        parts.append(part)
        size += len(part)
        if time.monotonic() > end:
            raise http.ReadTimeout("the body took too long", request=response.request)
        if size > LARGEST:  # and so is no completion
            break
    response.stream.close()
    response.stream = http.ByteStream(b"".join(parts))
