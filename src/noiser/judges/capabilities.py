"""What a server accepts. Servers that speak the same API accept different parameters, so a trial call finds out."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from noiser.http.retry import Failure
from noiser.judges.backend import Call, Completion

REFUSALS = ("400", "422", "501")
"""Statuses of a server that does not accept a parameter."""
REASONING_TOKENS = 4096
"""Tokens for a model that reasons before it answers: `max_completion_tokens` counts the reasoning too."""
_WORD = "quorvash"
_SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": [_WORD]}},
    "required": ["word"],
    "additionalProperties": False,
}
TRIAL = Call(({"role": "user", "content": "Say hello, in one word."},), _SCHEMA, 64)
"""No model says that word unless the schema forces it to."""


@dataclass(frozen=True)
class Capabilities:
    """The parameters that a server accepts. The reply cache stores these fields by name."""

    structured: bool = True
    """Whether its completions follow a schema."""
    tokens: str = "max_tokens"
    """The parameter that limits the completion: `max_tokens` or `max_completion_tokens`."""
    temperature: bool = True
    """Whether it accepts temperature 0. If not, its own temperature is used."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Capabilities":
        """Read what `to_dict` returned."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        return asdict(self)

    def parameters(self, call: Call) -> dict[str, Any]:
        """Return what is sent besides the model and the messages."""
        reasons = self.tokens == "max_completion_tokens"
        parameters: dict[str, Any] = {self.tokens: max(call.max_tokens, REASONING_TOKENS) if reasons else call.max_tokens}
        if self.temperature:
            parameters["temperature"] = 0
        if call.schema is not None and self.structured:
            schema = {"name": "answer", "strict": True, "schema": call.schema}
            parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
        return parameters

    def without(self, refused: Failure) -> "Capabilities | None":
        """Return the capabilities less the parameter that was refused, or None if no parameter is left to give up."""
        if refused.kind not in REFUSALS:
            return None
        reason = f"{refused.code} {refused.message}"
        if "response_format" not in refused.code:
            if self.tokens == "max_tokens" and ("max_tokens" in reason or "max_completion_tokens" in reason):
                return replace(self, tokens="max_completion_tokens")
            if self.temperature and "temperature" in reason:
                return replace(self, temperature=False)
        return replace(self, structured=False) if self.structured else None


def detect_capabilities(send: Callable[[Capabilities, Call], Completion | Failure]) -> Capabilities | Failure:
    """Return the capabilities with which the trial call was answered, or its failure. At most four calls, without retries."""
    capabilities: Capabilities | None = Capabilities()
    outcome: Completion | Failure | None = None
    while capabilities is not None:
        outcome = send(capabilities, TRIAL)
        if isinstance(outcome, Completion):
            return replace(capabilities, structured=capabilities.structured and _follows_schema(outcome.text))
        capabilities = capabilities.without(outcome)
    assert isinstance(outcome, Failure)
    return outcome


def _follows_schema(text: str) -> bool:
    try:
        return json.loads(text) == {"word": _WORD}
    except (ValueError, RecursionError):
        return False
