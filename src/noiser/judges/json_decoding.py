"""Constrained decoding: a reply is JSON of a given shape whatever the model. The model chooses only what stands between the quotes."""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from noiser.lm.tokenizer import Tokens

MAX_STRING_TOKENS = 12
"""Tokens of a string. A longer string ends there."""
FORBIDDEN_BYTES = frozenset(b'"\\') | frozenset(range(0x20))
"""Bytes that a JSON string cannot hold as they are."""


@dataclass(frozen=True, eq=False)
class StringTokens:
    """The tokens with which a tokenizer writes JSON strings."""

    quote: int
    """The token that is a quotation mark and nothing else."""
    inside: Bool[Tensor, " vocab"]
    """The tokens that may stand between two quotation marks."""


@dataclass(frozen=True, eq=False)
class JsonTemplate:
    """A JSON object of strings, in tokens, with gaps for the strings."""

    string_tokens: StringTokens
    fixed_parts: tuple[tuple[int, ...], ...]
    """The tokens before, between and behind the gaps."""

    @property
    def max_length(self) -> int:
        """Tokens of the longest reply."""
        return sum(map(len, self.fixed_parts)) + (len(self.fixed_parts) - 1) * (MAX_STRING_TOKENS + 1)


def string_tokens(tokens: Tokens, vocab: int) -> StringTokens | None:
    """Return a tokenizer's string tokens. None if no token is a quotation mark alone."""
    raws = [tokens.raw(token) for token in range(tokens.size)]
    quote = next((token for token, raw in enumerate(raws) if raw == b'"' and not tokens.is_special(token)), None)
    inside = [bool(raw) and not FORBIDDEN_BYTES.intersection(raw) and not tokens.is_special(token) for token, raw in enumerate(raws)]
    return None if quote is None else StringTokens(quote, torch.tensor(inside + [False] * (vocab - len(inside))))


def json_template(tokens: Tokens, known: StringTokens, schema: Mapping[str, Any]) -> JsonTemplate | None:
    """Return the template of a schema whose properties are all strings, in their order. None if the tokenizer cannot write it."""
    keys = [json.dumps(key) for key in schema["properties"]]
    texts = [f'{{{keys[0]}: "', *(f', {key}: "' for key in keys[1:]), "}"]
    template = JsonTemplate(known, tuple(tokens.ids(text) for text in texts))
    letter = int(known.inside.nonzero()[0])
    example = [token for part in template.fixed_parts[:-1] for token in (*part, letter, known.quote)]
    try:
        value = json.loads(tokens.text(example + list(template.fixed_parts[-1])))
    except ValueError:
        return None
    return template if list(value) == list(schema["properties"]) else None


class ConstrainedDecoder(LogitsProcessor):
    """One batch of replies: leaves each row only the tokens that may come next."""

    def __init__(self, template: JsonTemplate, rows: int) -> None:
        self._rows = [_RowState(template) for _ in range(rows)]
        self._tokens = template.string_tokens

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each row's reply."""
        return [row.length for row in self._rows]

    @property
    def complete(self) -> list[bool]:
        """Whether each row's reply is complete."""
        return [row.complete for row in self._rows]

    def __call__(self, input_ids: Int[Tensor, "rows seq"], scores: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        """Return the scores, with minus infinity for tokens that cannot come next."""
        forced = [row.next(token) for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True)]
        free = [index for index, token in enumerate(forced) if token is None]
        may_close = [index for index in free if self._rows[index].written > 1]
        single = [(index, token) for index, token in enumerate(forced) if token is not None]
        single += [(index, self._tokens.quote) for index in may_close]
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        if free:
            allowed[free] = self._tokens.inside.to(scores.device)
        if single:
            rows, tokens = zip(*single, strict=True)
            allowed[list(rows), list(tokens)] = True
        return scores.masked_fill(~allowed, -torch.inf)


class StopWhenComplete(StoppingCriteria):
    """Ends each row behind its last brace."""

    def __init__(self, decoder: ConstrainedDecoder) -> None:
        self._decoder = decoder

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002  (the signature of transformers)
        """Return which rows are complete."""
        return torch.tensor(self._decoder.complete, device=input_ids.device)


class _RowState:
    """The position in one reply: what is written and what is to come."""

    def __init__(self, template: JsonTemplate) -> None:
        self._quote, self._parts = template.string_tokens.quote, deque(template.fixed_parts)
        self._forced: deque[int] = deque(self._parts.popleft())
        self.length = self.written = 0
        """Tokens of the whole reply, and of the current string with the next token."""

    @property
    def complete(self) -> bool:
        """Whether no token is to come."""
        return not self._forced and not self._parts and not self.written

    def next(self, last: int) -> int | None:
        """Return the token that has to come next, or None if the model may choose. `last` is the token before it."""
        if self.complete:
            return self._quote
        if self.written and last == self._quote:
            self._forced, self.written = deque(self._parts.popleft()), 0
        self.length += 1
        if self._forced:
            return self._forced.popleft()
        self.written += 1
        return self._quote if self.written > MAX_STRING_TOKENS else None
