"""Replies that follow a schema whatever the model: it chooses what stands between the quotes, and all else is spelt out for it."""

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

MOST = 12
"""Tokens of a word: longer ones end there."""
UNFIT = frozenset(b'"\\') | frozenset(range(0x20))
"""Bytes that cannot stand in a JSON string as they are."""


@dataclass(frozen=True, eq=False)
class Alphabet:
    """What a tokenizer has for writing JSON strings."""

    quote: int
    """The token that is a quotation mark and nothing else."""
    inside: Bool[Tensor, " vocab"]
    """The tokens that may stand between two of them."""


@dataclass(frozen=True, eq=False)
class Spelling:
    """A JSON object of strings, in tokens, with gaps for the strings."""

    alphabet: Alphabet
    pieces: tuple[tuple[int, ...], ...]
    """What stands before, between and behind the gaps."""

    @property
    def longest(self) -> int:
        """Tokens of the longest reply."""
        return sum(map(len, self.pieces)) + (len(self.pieces) - 1) * (MOST + 1)


def alphabet(tokens: Tokens, vocab: int) -> Alphabet | None:
    """None for a tokenizer that has no quotation mark of its own."""
    raws = [tokens.raw(token) for token in range(tokens.size)]
    quote = next((token for token, raw in enumerate(raws) if raw == b'"' and not tokens.is_special(token)), None)
    fit = [bool(raw) and not UNFIT.intersection(raw) and not tokens.is_special(token) for token, raw in enumerate(raws)]
    return None if quote is None else Alphabet(quote, torch.tensor(fit + [False] * (vocab - len(fit))))


def spelling(tokens: Tokens, known: Alphabet, schema: Mapping[str, Any]) -> Spelling | None:
    """The schema's object, all its properties strings, in their order. None where the tokenizer cannot write it."""
    keys = [json.dumps(key) for key in schema["properties"]]
    texts = [f'{{{keys[0]}: "', *(f', {key}: "' for key in keys[1:]), "}"]
    found = Spelling(known, tuple(tokens.ids(text) for text in texts))
    some = int(known.inside.nonzero()[0])
    try:
        trial = tokens.text([token for piece in found.pieces[:-1] for token in (*piece, some, known.quote)] + list(found.pieces[-1]))
        return found if list(json.loads(trial)) == list(schema["properties"]) else None
    except ValueError:
        return None


class ConstrainedDecoder(LogitsProcessor):
    """One batch of replies under way: leaves each row only the tokens that may come next."""

    def __init__(self, spelt: Spelling, rows: int) -> None:
        self._rows = [_Row(spelt) for _ in range(rows)]
        self._spelt = spelt

    @property
    def lengths(self) -> list[int]:
        """How many tokens of each row are its reply."""
        return [row.length for row in self._rows]

    @property
    def ended(self) -> list[bool]:
        """Which rows' replies are whole."""
        return [row.ended for row in self._rows]

    def __call__(self, input_ids: Int[Tensor, "rows seq"], scores: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        """The scores, those of tokens that cannot come now minus infinity."""
        wanted = [row.next(token) for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True)]
        free = [place for place, token in enumerate(wanted) if token is None]
        closing = [place for place in free if self._rows[place].written > 1]
        told = [(place, token) for place, token in enumerate(wanted) if token is not None]
        told += [(place, self._spelt.alphabet.quote) for place in closing]
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        if free:
            allowed[free] = self._spelt.alphabet.inside.to(scores.device)
        if told:
            places, tokens = zip(*told, strict=True)
            allowed[list(places), list(tokens)] = True
        return scores.masked_fill(~allowed, -torch.inf)


class Endings(StoppingCriteria):
    """Ends each row behind its last brace."""

    def __init__(self, speller: ConstrainedDecoder) -> None:
        self._speller = speller

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002  (transformers calls it so)
        """Which rows have ended."""
        return torch.tensor(self._speller.ended, device=input_ids.device)


class _Row:
    """Where one reply is: how much of it was written, and what is to come."""

    def __init__(self, spelt: Spelling) -> None:
        self._quote, self._pieces = spelt.alphabet.quote, deque(spelt.pieces)
        self._due: deque[int] = deque(self._pieces.popleft())
        self.length = self.written = 0
        """Tokens of the whole reply; of the string under way, the coming one among them."""

    @property
    def ended(self) -> bool:
        """Whether nothing is to come."""
        return not self._due and not self._pieces and not self.written

    def next(self, last: int) -> int | None:
        """The token that has to come next, or None where the model may choose; `last` is what came last."""
        if self.ended:
            return self._quote
        if self.written and last == self._quote:
            self._due, self.written = deque(self._pieces.popleft()), 0
        self.length += 1
        if self._due:
            return self._due.popleft()
        self.written += 1
        return self._quote if self.written > MOST else None
