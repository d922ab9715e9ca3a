"""Backends: where a judge's text comes from. A backend completes chats; it knows nothing of JudgePrompts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from noiser.errors import JudgeError

Message = Mapping[str, str]
"""`role` (system, user, assistant) and `content`."""


@dataclass(frozen=True)
class Call:
    """One completion to make."""

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None
    """The JSON schema of the completion. None: free text."""
    max_tokens: int
    """The most tokens that the completion may have."""


@dataclass(frozen=True)
class Completion:
    """A chat completion."""

    text: str
    finish: str
    """Why it ended: `stop`, `length`, `refusal`, or another word of the server's."""
    model: str
    """The model id that the server returned."""


OnCompletion = Callable[[int, Completion | JudgeError], None]
"""Called with the index of a call and its outcome as soon as the outcome exists: from any thread, one at a time."""


@runtime_checkable
class Backend(Protocol):
    """An object that completes chats greedily."""

    @property
    def name(self) -> str:
        """The judge's name, as it was opened."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Plain values that the completions depend on and that are known before the first call."""
        ...

    @property
    def counts(self) -> Counter[str]:
        """`calls` (completions asked for), and the number of each kind of failure: `429`, `500`, `timeout`, `connection`, ..."""
        ...

    @property
    def structured(self) -> bool:
        """Whether completions follow a schema. The first read may try it with a call."""
        ...

    @property
    def model(self) -> str | None:
        """The id of the model that answers, if it is known before a call."""
        ...

    def check(self) -> None:
        """Raises RunError if the backend cannot complete anything."""
        ...

    def parameters(self, call: Call) -> Mapping[str, Any]:
        """Everything besides the messages that changes the completion, as plain JSON."""
        ...

    def complete(self, calls: Sequence[Call], on_completion: OnCompletion) -> None:
        """Complete every call. A call that fails is reported as its JudgeError. Raises RunError if more calls are of no use."""
        ...
