"""How a server wants to be asked: found out by trying, since servers that speak one API differ in what they take."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from noiser.judges.backend import Call, Completion
from noiser.judges.retry import Failure

REFUSED = ("400", "422", "501")
"""What a server answers that does not take a parameter."""
THOUGHT = 4096
"""Tokens for a model that thinks before it answers: who wants the limit under its newer name counts the thinking in."""
_WORD = "quorvash"
_SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": [_WORD]}},
    "required": ["word"],
    "additionalProperties": False,
}
TRIAL = Call(({"role": "user", "content": "Say hello, in one word."},), _SCHEMA, 64)
"""Nobody says that word who is not made to."""


@dataclass(frozen=True)
class Capabilities:
    """What a server takes. What it is spared is what it refused."""

    structured: bool = True
    """Whether its replies follow a schema that is sent along."""
    tokens: str = "max_tokens"
    """The name of the limit: `max_tokens`, or `max_completion_tokens`."""
    temperature: bool = True
    """Whether it takes temperature 0. Where it does not, it says what its own temperature makes it say."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Capabilities":
        """The one that `plain` told of."""
        return cls(**{name: found[name] for name in cls.__dataclass_fields__ if name in found})

    def plain(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return asdict(self)

    def parameters(self, call: Call) -> dict[str, Any]:
        """What is sent beside the model and the messages."""
        thinks = self.tokens == "max_completion_tokens"
        said: dict[str, Any] = {self.tokens: max(call.tokens, THOUGHT) if thinks else call.tokens}
        if self.temperature:
            said["temperature"] = 0
        if call.schema is not None and self.structured:
            schema = {"name": "answer", "strict": True, "schema": call.schema}
            said["response_format"] = {"type": "json_schema", "json_schema": schema}
        return said

    def without(self, refused: Failure) -> "Capabilities | None":
        """The dialect without what that failure is about; None where there is nothing left to leave out."""
        if refused.kind not in REFUSED:
            return None
        about = f"{refused.code} {refused.said}"
        if "response_format" not in refused.code:
            if self.tokens == "max_tokens" and ("max_tokens" in about or "max_completion_tokens" in about):
                return replace(self, tokens="max_completion_tokens")
            if self.temperature and "temperature" in about:
                return replace(self, temperature=False)
        return replace(self, structured=False) if self.structured else None


def learn(send: Callable[[Capabilities, Call], Completion | Failure]) -> Capabilities | Failure:
    """The dialect in which the trial call was answered, after four calls at most, retries aside; or why it was not."""
    dialect: Capabilities | None = Capabilities()
    said: Completion | Failure | None = None
    while dialect is not None:
        said = send(dialect, TRIAL)
        if isinstance(said, Completion):
            return replace(dialect, structured=dialect.structured and _obeys(said.text))
        dialect = dialect.without(said)
    assert isinstance(said, Failure)
    return said


def _obeys(text: str) -> bool:
    try:
        return json.loads(text) == {"word": _WORD}
    except (ValueError, RecursionError):
        return False
