"""Reading what a server sent: a completion, or why it is none."""

import json
from collections.abc import Mapping
from typing import Any

from noiser.judges.backend import Said
from noiser.judges.keys import KEY, OPENAI, OPENAI_KEY, Redactor
from noiser.judges.retrying import Failure, retry_after

AGAIN = (408, 409, 429)
FILTERED = ("content_filter", "content_policy_violation")
"""A server's codes for a question that it refuses to pass on to the model."""


def completion(body: bytes, model: str, redact: Redactor) -> Said | Failure:
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
    return Said(refusal or content, "refusal" if refused else finish or "unknown", who or model)


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
