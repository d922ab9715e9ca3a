"""A judge behind an API: any server that completes chats as OpenAI's does."""

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from noiser.errors import JudgeError, RunError
from noiser.http.retry import Failure, RetryPolicy, retry
from noiser.http.threads import run_threaded
from noiser.judges.backend import Call, Completion, OnCompletion
from noiser.judges.capabilities import Capabilities, detect_capabilities
from noiser.judges.transport import Transport, advice

CONNECT_TIMEOUT = 15.0
"""Seconds for which an unreachable server is tried before its first answer: it may not exist."""
MAX_LOST_IN_A_ROW = 8
"""After so many lost questions in a row, or `max_connections` if that is more, the backend stops."""
RESUME = "Its answers so far are kept: the same command goes on from there"


class ApiBackend:
    """A Backend that calls a server. The key goes to that server, and into nothing that is returned, raised, logged or shown."""

    def __init__(
        self,
        name: str,
        model: str,
        *,
        url: str,
        key: str | None,
        identity: Mapping[str, Any],
        max_connections: int = 8,
        timeout: float = 60.0,
        total_timeout: float = 300.0,
        trust_env: bool = True,
        first_wait: float = 0.5,
        max_wait: float = 30.0,
    ) -> None:
        """Remember where and how to call; nothing is sent. All times are in seconds.

        timeout              for one call
        total_timeout        for one question with all its retries and waits
        first_wait, max_wait the first and the longest wait between two tries
        trust_env            False ignores the proxies of the environment, as for a server of our own
        """
        self.name, self.identity = name, identity
        self.counts: Counter[str] = Counter()
        """`calls`: completions asked for. Each was answered, or is counted under its failure: the HTTP status, `timeout`, `connection`,
        `malformed`, or `abandoned` (nobody waited for it). `failed`: questions without a reply."""
        self._requested_model, self._url, self._has_key, self._max_connections = model, url, key is not None, max_connections
        self._policy = RetryPolicy(timeout, total_timeout, first_wait, max_wait)
        self._connect: Callable[[], Transport] = lambda: Transport(url, key, trust_env=trust_env)
        self._transport: Transport | None = None
        self._close_transport: weakref.finalize | None = None
        self._model: str | None = None
        self._capabilities: Capabilities | None = None
        self._answered = False
        """Whether the server answered in this session: its capabilities are then known to be current."""
        self._lost_in_a_row = 0
        self._count_lock, self._capabilities_lock, self._connect_lock = threading.Lock(), threading.RLock(), threading.Lock()

    @property
    def model(self) -> str | None:
        """The model id of the latest reply. None before the first reply."""
        return self._model

    @property
    def structured(self) -> bool:
        """Whether completions follow a schema. The first read may make a trial call. Raises RunError if the server does not answer."""
        return self._current_capabilities().structured

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """The parameters that the server accepts. Empty before the trial call."""
        return self._capabilities.to_dict() if self._capabilities else {}

    def set_capabilities(self, capabilities: Mapping[str, Any]) -> None:
        """Use these capabilities without a trial call. Empty: make the trial call again."""
        self._capabilities = Capabilities.from_dict(capabilities) if capabilities else None

    def check(self) -> None:
        """Make a trial call unless the server has answered before. Raises RunError if it fails."""
        if not self._answered:
            self._detect_capabilities()

    def parameters(self, call: Call) -> dict[str, Any]:
        """What is sent besides the model and the messages, as far as the server's capabilities are known."""
        return (self._capabilities or Capabilities()).parameters(call)

    def complete(self, calls: Sequence[Call], on_completion: OnCompletion) -> None:
        """Complete every call.

        Raises RunError if the server refuses all of them, or if it has not answered many in a row. Completions before that have been
        reported. An interrupt ends it at once.
        """
        if not calls:
            return
        self._current_capabilities()
        tracker = CallTracker(self.counts, self._count_lock, on_completion)

        def work(index: int) -> None:
            outcome = self._ask(calls[index], tracker)
            if isinstance(outcome, Completion) or not tracker.stop.is_set():
                self._report(index, outcome, tracker)

        try:
            run_threaded(work, len(calls), self._max_connections, tracker.stop)
        finally:
            tracker.finish()

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        if self._close_transport is not None:
            self._close_transport()
        self._transport = self._close_transport = None

    def _current_capabilities(self) -> Capabilities:
        with self._capabilities_lock:
            return self._capabilities or self._detect_capabilities()

    def _detect_capabilities(self) -> Capabilities:
        """Make trial calls. Raises RunError if the server answers none of them."""
        tracker = CallTracker(self.counts, self._count_lock, lambda _index, _outcome: None)
        policy = replace(self._policy, connect_timeout=CONNECT_TIMEOUT)
        with self._capabilities_lock:
            try:
                capabilities = detect_capabilities(lambda tried, call: self._send(tried, call, tracker, policy))
            finally:
                tracker.finish()
            if isinstance(capabilities, Failure):
                raise RunError(f"{self.name} cannot be asked: {self._explain(capabilities)}")
            self._capabilities, self._answered = capabilities, True
            return capabilities

    def _ask(self, call: Call, tracker: "CallTracker") -> Completion | Failure:
        """Send one question with its retries. If a server refuses it before its first answer, the trial call is made again."""
        if not all(_can_be_sent(text) for message in call.messages for text in message.values()):
            return Failure("text", "the question holds half of a surrogate pair, which cannot be sent", retryable=False)
        capabilities = self._current_capabilities()
        outcome = self._send(capabilities, call, tracker, self._policy)
        if isinstance(outcome, Failure) and not outcome.retryable and not tracker.stop.is_set():
            with self._capabilities_lock:
                if not self._answered:
                    self._detect_capabilities()
            if self._current_capabilities() != capabilities:
                outcome = self._send(self._current_capabilities(), call, tracker, self._policy)
        return outcome

    def _send(self, capabilities: Capabilities, call: Call, tracker: "CallTracker", policy: RetryPolicy) -> Completion | Failure:
        parameters = capabilities.parameters(call)

        def attempt(seconds: float) -> Completion | Failure:
            outcome = tracker.count(lambda: self._connected().send(self._requested_model, call.messages, parameters, seconds))
            if isinstance(outcome, Completion):
                self._model, self._answered, self._lost_in_a_row = outcome.model, True, 0
            return outcome

        return retry(attempt, policy, tracker.stop.wait)

    def _report(self, index: int, outcome: Completion | Failure, tracker: "CallTracker") -> None:
        if isinstance(outcome, Completion):
            tracker.report(index, outcome)
            return
        if self._advice(outcome):
            raise RunError(f"{self.name} cannot be asked any more: {self._explain(outcome)}. {RESUME}")
        tracker.report(index, JudgeError(f"{self.name} gave no reply: {outcome.message}"))
        most = max(self._max_connections, MAX_LOST_IN_A_ROW)
        with self._count_lock:
            self._lost_in_a_row += 1
            lost = self._lost_in_a_row
            if lost >= most:
                self._lost_in_a_row = 0
        if lost >= most:
            raise RunError(
                f"{self.name} does not answer: {lost} questions in a row were lost, this one because {outcome.message}. {RESUME}"
            )

    def _advice(self, failure: Failure) -> str | None:
        return advice(failure, self._requested_model, self._url, self._has_key)

    def _explain(self, failure: Failure) -> str:
        remedy = self._advice(failure)
        return f"{failure.message}; {remedy}" if remedy else failure.message

    def _connected(self) -> Transport:
        with self._connect_lock:
            if self._transport is None:
                self._transport = self._connect()
                self._close_transport = weakref.finalize(self, self._transport.close)
            return self._transport


class CallTracker:
    """Counts the calls of one `complete` and reports their outcomes, until it is finished.

    `counts` may be shared with other trackers; `count_lock` guards it.
    """

    def __init__(self, counts: Counter[str], count_lock: threading.Lock, on_completion: OnCompletion) -> None:
        self.stop = threading.Event()
        """Set when no thread is to wait any longer."""
        self._counts, self._count_lock, self._on_completion = counts, count_lock, on_completion
        self._report_lock = threading.Lock()
        self._running, self._finished = 0, False

    def count(self, send: Callable[[], Completion | Failure]) -> Completion | Failure:
        """Make one call, and count it and its failure."""
        with self._count_lock:
            self._counts["calls"] += 1
            self._running += 1
        outcome = send()
        with self._count_lock:
            if not self._finished:
                self._running -= 1
                self._counts.update([outcome.kind] if isinstance(outcome, Failure) else [])
        return outcome

    def report(self, index: int, outcome: Completion | JudgeError) -> None:
        """Pass on the outcome of a question, one at a time."""
        with self._report_lock:
            if not self._finished:
                self._counts.update(["failed"] if isinstance(outcome, JudgeError) else [])
                self._on_completion(index, outcome)

    def finish(self) -> None:
        """Report nothing from here on. Calls that still run count as `abandoned`, whatever their outcome."""
        self.stop.set()
        with self._report_lock, self._count_lock:
            self._finished = True
            self._counts.update({"abandoned": self._running} if self._running else {})


def _can_be_sent(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
