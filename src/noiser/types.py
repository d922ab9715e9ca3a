"""What flows through the library: frozen, plain, printable."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from noiser.normalization import normalize


@dataclass(frozen=True)
class Turn:
    """One message of a chat."""

    role: str
    tokens: tuple[int, ...]
    """The positions of its content's tokens: no header, no special token. Empty where the template left the content out."""


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt. The ids are the truth; nothing is ever decoded and tokenised again."""

    text: str
    """What `offsets` refer to: the text given, a chat as rendered, or of ids their tokens end to end."""
    input_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """What each token reads like, leading space included; a fragment of a character as its bytes, `<0xF0><0x9F>`."""
    special: tuple[bool, ...]
    """Whether each token is one of the tokenizer's special tokens."""
    offsets: tuple[tuple[int, int], ...] = ()
    """First and one past the last character of each token in `text`; a token without text has an empty span."""
    turns: tuple[Turn, ...] = ()
    """One for each message of a chat, in order; empty for anything else."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def cropped(self, length: int) -> "Prompt":
        """Its first `length` tokens; the text ends with the last of them, and turns keep what tokens are left to them.

        A character of which some tokens are cut off is shown as U+FFFD.
        """
        kept = self.offsets[:length]
        text = self.text[: max((stop for _, stop in kept), default=0)] if self.offsets else "".join(self.tokens[:length])
        if kept and self.tokens[length - 1].startswith("<0x") and any(start < len(text) for start, _ in self.offsets[length : length + 1]):
            text = text[:-1] + "\ufffd"
        turns = tuple(Turn(turn.role, tuple(token for token in turn.tokens if token < length)) for turn in self.turns)
        return Prompt(text, self.input_ids[:length], self.tokens[:length], self.special[:length], kept, turns)


@dataclass(frozen=True)
class Target:
    """The token whose probability is explained."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    prob: float
    """Its probability on the clean run, in [0, 1]."""
    rank: int
    """How many tokens the model holds more probable; 0 is its own prediction."""


@dataclass(frozen=True)
class Cost:
    """What an attribution took."""

    seconds: float
    """Wall-clock; where prompts shared batches, this prompt's share by token-forwards."""
    forward_tokens: int
    """Tokens that went through the whole model, counted by the engine; independent of the machine's clock."""
    backward_tokens: int
    """Tokens that a gradient was taken through."""
    peak_bytes: int
    """On a GPU the most memory allocated during the call; on a CPU the process's highest resident size so far."""


Show = Callable[["Attribution"], str]
VIEWS: dict[str, Show] = {}
"""How an Attribution shows itself; `noiser.views` fills it, because imports point one way only."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Which input tokens caused a prediction, and by how much."""

    scores: Float[np.ndarray, "targets seq"]
    """In the method's own units, signed, not normalised, read-only. Higher: the token supports the target more."""
    prompt: Prompt
    target: Target
    method: str
    options: Mapping[str, Any]
    model: str
    revision: str
    seed: int | None
    """None where the method draws nothing at random."""
    cost: Cost
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the method found on the way (for noiser: k, k_status, ...) and `warnings`, a list of sentences."""

    def __post_init__(self) -> None:
        frozen = np.array(self.scores, dtype=np.float64)
        frozen.flags.writeable = False
        object.__setattr__(self, "scores", frozen)
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        object.__setattr__(self, "notes", MappingProxyType(dict(self.notes)))

    def __reduce__(self) -> tuple[Any, ...]:
        values = (getattr(self, each.name) for each in fields(self))
        return Attribution, tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens, in the order of the scores."""
        return self.prompt.tokens

    def normalized(self, how: str) -> Float[np.ndarray, "targets seq"]:
        """The scores on a common scale; see `noiser.normalization.normalize` for the ways."""
        return normalize(self.scores, how)

    def to_dict(self) -> dict[str, Any]:
        """The attribution as plain Python values, in the shape of the command line's JSON (schema 1)."""
        return {
            "schema": 1,
            "model": self.model,
            "revision": self.revision,
            "method": self.method,
            "options": dict(self.options),
            "seed": self.seed,
            "prompt": {"text": self.prompt.text, "input_ids": list(self.prompt.input_ids), "tokens": list(self.prompt.tokens)},
            "target": {
                "token_ids": list(self.target.token_ids),
                "tokens": list(self.target.tokens),
                "prob": self.target.prob,
                "rank": self.target.rank,
            },
            "scores": self.scores.tolist(),
            "notes": dict(self.notes),
            "cost": vars(self.cost).copy(),
        }

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return VIEWS.get("text", repr)(self)
