"""Retries: which failures are tried again, when, and for how long."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import count
from typing import TypeVar

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Failure:
    """A call without a usable reply."""

    kind: str
    """The HTTP status (`429`), or `timeout`, `connection`, or `malformed` (the reply is not what was asked for)."""
    message: str
    """What happened, without the key."""
    retryable: bool
    """Whether the next call may succeed."""
    retry_after: float | None = None
    """Seconds that the server asks to wait, if it says so."""
    code: str = ""
    """The server's own codes for the error and for the parameter that caused it."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long one reply may take. All times are in seconds."""

    timeout: float
    """For one call."""
    total_timeout: float
    """For all calls and the waits between them."""
    first_wait: float = 0.5
    """The first wait. It doubles each time."""
    max_wait: float = 30.0
    """The longest wait, unless the server asks for a longer one."""
    connect_timeout: float = float("inf")
    """For how long an unreachable server is tried, if that is shorter than `total_timeout`."""

    def wait(self, failures: int, retry_after: float | None) -> float:
        """Return the seconds to wait after that many failures (from 1 on).

        The wait is what the server asks for plus a random part of `first_wait`, so that not all calls return at the same moment.
        Without such a wish it is an exponential backoff, half of which is random.
        """
        factor = secrets.SystemRandom().uniform(0.5, 1.0)  # leaves the caller's random state as it is
        if retry_after is not None:
            return retry_after + factor * self.first_wait
        return factor * min(self.max_wait, self.first_wait * 2.0 ** min(failures - 1, 60))


def retry(attempt: Callable[[float], Reply | Failure], policy: RetryPolicy, wait_or_stop: Callable[[float], bool]) -> Reply | Failure:
    """Return the first reply, or the last failure.

    attempt       makes one call; it gets the seconds that the call may take.
    wait_or_stop  waits that many seconds, or returns True at once when the work has to stop.
    """
    start = time.monotonic()
    for failures in count(1):
        outcome = attempt(min(policy.timeout, max(policy.total_timeout - (time.monotonic() - start), 0.001)))
        if not isinstance(outcome, Failure) or not outcome.retryable:
            return outcome
        total = min(policy.total_timeout, policy.connect_timeout) if outcome.kind == "connection" else policy.total_timeout
        remaining = total - (time.monotonic() - start)
        if outcome.retry_after is not None and outcome.retry_after > remaining:
            return _given_up(outcome, f"it asks for a wait of {outcome.retry_after:.4g} s", remaining, total)
        wait = policy.wait(failures, outcome.retry_after)
        if wait >= remaining:
            return _given_up(outcome, f"asked {failures} times", remaining, total)
        if wait_or_stop(wait):
            return outcome
    raise AssertionError


def _given_up(outcome: Failure, reason: str, remaining: float, total: float) -> Failure:
    left = f"{max(remaining, 0):.3g} s are left of the {total:.4g} s that a question may take"
    return replace(outcome, message=f"{outcome.message}; {reason}, and {left}")


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait, or None if its headers do not say so in a readable form.

    `retry-after-ms` counts before `Retry-After`, which holds seconds or a date. The keys of `headers` are in lower case.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _number(value)
    return seconds if seconds is not None else _seconds_until(value)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if number != number else max(number, 0.0)


def _seconds_until(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        return max((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):  # a server may send any text
        return None
