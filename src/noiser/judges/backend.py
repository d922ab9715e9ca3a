"""Where a judge's words come from: what a backend is asked, and what it says."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from noiser.errors import JudgeError

Message = Mapping[str, str]
"""`role` (system, user, assistant) and `content`."""


@dataclass(frozen=True)
class Call:
    """One completion that is wanted."""

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None
    """The JSON schema that the reply has to follow; None: free text."""
    tokens: int
    """At most so many in the reply."""


@dataclass(frozen=True)
class Completion:
    """A completion."""

    text: str
    finish: str
    """Why it ended: `stop`, `length`, `refusal`, or whatever else the server says."""
    model: str
    """The id of the model that it came from, as the server says."""


Heard = Callable[[int, Completion | JudgeError], None]
"""Told of each call's outcome, by its place, as soon as it is there; from any thread, one at a time."""


@runtime_checkable
class Backend(Protocol):
    """Whoever completes chats, greedily."""

    @property
    def name(self) -> str:
        """As it was asked for."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Plain values that its answers depend on and that are known before it is asked."""
        ...

    @property
    def counts(self) -> Counter[str]:
        """`calls` (completions sent), and each kind of failure: `429`, `500`, `timeout`, `connection`, ..."""
        ...

    @property
    def structured(self) -> bool:
        """Whether replies follow a schema. Found out by trying, the first time that it is asked."""
        ...

    @property
    def model(self) -> str | None:
        """The id of the model that answers, where it is known before a call is made."""
        ...

    def check(self) -> None:
        """Raises RunError where it cannot be asked at all."""
        ...

    def parameters(self, call: Call) -> Mapping[str, Any]:
        """All that goes along with the messages and changes the reply, as plain JSON."""
        ...

    def complete(self, calls: Sequence[Call], heard: Heard) -> None:
        """Complete every call. What goes wrong with one is heard as its JudgeError; raises RunError where going on is of no use."""
        ...
