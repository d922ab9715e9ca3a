"""A judge behind an API: any server that completes chats as OpenAI's does."""

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from noiser.errors import JudgeError, RunError
from noiser.judges.backend import Call, Completion, Heard
from noiser.judges.capabilities import Capabilities, learn
from noiser.judges.retry import CallTracker, Failure, Patience, persist, run_threaded
from noiser.judges.transport import Transport, advice

REACH = 15.0
"""Seconds for which a server that cannot be reached is tried at the very beginning, where it may just not be there."""
GIVE_UP = 8
"""After so many questions in a row, or `at_once` if that is more, that were given up, all are."""

GO_ON = "What it answered is kept: the same command goes on from there"


class ApiBackend:
    """A Backend that asks a server. Its key is sent to that server, and is in nothing that it returns, raises, logs or shows.

    `timeout` is for a call, `budget` for a question with all its retries and waits; `base` and `cap` are the first wait and the
    longest; all in seconds. `trust_env=False` passes by the proxies that the environment names, as for a server of our own.
    """

    def __init__(
        self,
        name: str,
        model: str,
        *,
        url: str,
        key: str | None,
        identity: Mapping[str, Any],
        at_once: int = 8,
        timeout: float = 60.0,
        budget: float = 300.0,
        trust_env: bool = True,
        base: float = 0.5,
        cap: float = 30.0,
    ) -> None:
        self.name, self.identity = name, identity
        self.counts: Counter[str] = Counter()
        """`calls`: completions asked for. Each was answered, or is counted under what went wrong: its HTTP status, `timeout`,
        `connection`, `malformed`, or `abandoned` (nobody waited for it). `failed`: questions given up."""
        self._asked_for, self._url, self._keyed, self._at_once = model, url, key is not None, at_once
        self._patience = Patience(timeout, budget, base, cap)
        self._connect: Callable[[], Transport] = lambda: Transport(url, key, trust_env=trust_env)
        self._wire: Transport | None = None
        self._close: weakref.finalize | None = None
        self._model: str | None = None
        self._dialect: Capabilities | None = None
        self._answered = False
        """Whether it answered in this session, so that it is known to take what is sent."""
        self._given_up = 0
        """Questions in a row."""
        self._counting, self._learning, self._connecting = threading.Lock(), threading.RLock(), threading.Lock()

    @property
    def model(self) -> str | None:
        """The id in the latest reply; None before there is one."""
        return self._model

    @property
    def structured(self) -> bool:
        """Whether replies follow a schema: known from `adapt`, else tried. Raises RunError where it does not answer."""
        return self._known().structured

    @property
    def adapted(self) -> Mapping[str, Any]:
        """How the server wants to be asked; empty before that was tried."""
        return self._dialect.plain() if self._dialect else {}

    def adapt(self, found: Mapping[str, Any]) -> None:
        """Ask it like this, without trying; empty: try again."""
        self._dialect = Capabilities.of(found) if found else None

    def check(self) -> None:
        """Ask once, if it has not answered yet. Raises RunError where that fails."""
        if not self._answered:
            self._learn()

    def parameters(self, call: Call) -> dict[str, Any]:
        """What is sent beside the model and the messages, as far as it is known how the server wants it."""
        return (self._dialect or Capabilities()).parameters(call)

    def complete(self, calls: Sequence[Call], heard: Heard) -> None:
        """Complete every call. Raises RunError where the server refuses all of them, or has not answered many in a row; what was
        answered before has been heard. An interrupt leaves at once."""
        if not calls:
            return
        self._known()
        session = CallTracker(self.counts, self._counting, heard)

        def work(place: int) -> None:
            outcome = self._ask(calls[place], session)
            if isinstance(outcome, Completion) or not session.stop.is_set():
                self._tell(place, outcome, session)

        try:
            run_threaded(work, len(calls), self._at_once, session.stop)
        finally:
            session.leave()

    def close(self) -> None:
        """Close the connections; they are opened again when needed."""
        if self._close is not None:
            self._close()
        self._wire = self._close = None

    def _known(self) -> Capabilities:
        with self._learning:
            return self._dialect or self._learn()

    def _learn(self) -> Capabilities:
        """Find out by trying how it wants to be asked. Raises RunError where it does not answer, whatever it is asked."""
        session = CallTracker(self.counts, self._counting, lambda _, __: None)
        patience = replace(self._patience, reach=REACH)
        with self._learning:
            try:
                found = learn(lambda dialect, call: self._persist(dialect, call, session, patience))
            finally:
                session.leave()
            if isinstance(found, Failure):
                raise RunError(f"{self.name} cannot be asked: {self._why(found)}")
            self._dialect, self._answered = found, True
            return found

    def _ask(self, call: Call, session: CallTracker) -> Completion | Failure:
        """One question, with its retries. What a server refuses that was never asked in this session is tried anew."""
        if not all(_encodes(text) for message in call.messages for text in message.values()):
            return Failure("text", "half of a surrogate pair is in the question, and cannot be sent", again=False)
        dialect = self._known()
        said = self._persist(dialect, call, session, self._patience)
        if isinstance(said, Failure) and not said.again and not session.stop.is_set():
            with self._learning:
                if not self._answered:
                    self._learn()
            if self._known() != dialect:
                said = self._persist(self._known(), call, session, self._patience)
        return said

    def _persist(self, dialect: Capabilities, call: Call, session: CallTracker, patience: Patience) -> Completion | Failure:
        def attempt(seconds: float) -> Completion | Failure:
            parameters = dialect.parameters(call)
            said = session.counted(lambda: self._server().send(self._asked_for, call.messages, parameters, seconds))
            if isinstance(said, Completion):
                self._model, self._answered, self._given_up = said.model, True, 0
            return said

        return persist(attempt, patience, session.stop.wait)

    def _tell(self, place: int, outcome: Completion | Failure, session: CallTracker) -> None:
        if isinstance(outcome, Completion):
            session.tell(place, outcome)
            return
        if advice(outcome, self._asked_for, self._url, self._keyed):
            raise RunError(f"{self.name} cannot be asked any more: {self._why(outcome)}. {GO_ON}")
        session.tell(place, JudgeError(f"{self.name} gave no reply: {outcome.said}"))
        with self._counting:
            self._given_up += 1
            row = self._given_up
            if row >= max(self._at_once, GIVE_UP):
                self._given_up = 0
        if row >= max(self._at_once, GIVE_UP):
            raise RunError(f"{self.name} does not answer: {row} questions in a row were given up, this one because {outcome.said}. {GO_ON}")

    def _why(self, found: Failure) -> str:
        remedy = advice(found, self._asked_for, self._url, self._keyed)
        return f"{found.said}; {remedy}" if remedy else found.said

    def _server(self) -> Transport:
        with self._connecting:
            if self._wire is None:
                self._wire = self._connect()
                self._close = weakref.finalize(self, self._wire.close)
            return self._wire


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
