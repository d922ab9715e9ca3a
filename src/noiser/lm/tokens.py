"""Text to Prompt, and ids to what they read like."""

import re
from collections.abc import Sequence
from operator import index
from typing import Any, SupportsIndex

from noiser.errors import PromptError
from noiser.types import Prompt

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
WORD_START = "\u2581"


class Tokens:
    """A tokenizer, read only: nothing about it is ever set, so it stays as the user left it."""

    def __init__(self, tokenizer: Any, limit: int | None, embedded: int) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        """The most tokens the model takes; None where its configuration names no limit."""
        self.size = min(len(tokenizer), embedded)
        """How many ids both the tokenizer and the model's embedding know."""
        self._added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        self._special = frozenset(tokenizer.all_special_ids)
        self._byte_level = "ByteLevel" in str(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", ""))

    def prompt(self, source: str | Sequence[int] | Prompt) -> Prompt:
        """Text, tokenised with the tokenizer's own special tokens; or ids, taken as they are.

        Raises PromptError where there are no tokens, more than the model takes (nothing is ever truncated), or where
        the text is not valid Unicode.
        """
        if isinstance(source, Prompt):
            self._check(source.input_ids)
            return source
        if isinstance(source, str):
            check_unicode(source)
            return self._prompt(source, self._ids(source, add_special_tokens=True))
        self._check(source)
        return self._prompt(self.tokenizer.decode(list(source)), source)

    def target(self, target: str | SupportsIndex) -> int:
        """The id of a one-token target, given as text (its leading space included) or as an id."""
        if not isinstance(target, str):
            self._check_ids([index(target)])
            return index(target)
        check_unicode(target)
        ids = self._ids(target, add_special_tokens=False)
        if len(ids) != 1:
            pieces = ", ".join(f"{self.surface(i)!r} (id:{i})" for i in ids) or "none"
            raise PromptError(f"the target must be one token; {target!r} is {len(ids)}: {pieces}. Give one of those")
        self._check_ids(ids)
        return ids[0]

    def surface(self, token_id: int) -> str:
        """What one token reads like, with its leading space; a fragment of a character as its bytes, `<0xF0><0x9F>`."""
        if token_id in self._added:
            return self._added[token_id]
        piece = self.tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return f"<id {token_id}>"
        if self._byte_level:
            return _read_bytes(bytes(BYTE_OF[character] for character in piece))
        if BYTE_PIECE.fullmatch(piece):
            return _read_bytes(bytes([int(piece[3:5], 16)]))
        return piece.replace(WORD_START, " ")

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The text's ids. To call a fast tokenizer sets the padding and truncation of its backend, so they are put back."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        padding, truncation = (backend.padding, backend.truncation) if backend is not None else (None, None)
        try:
            return self.tokenizer(text, add_special_tokens=add_special_tokens, padding=False, truncation=False, verbose=False)["input_ids"]
        finally:
            if backend is not None and padding is not None:
                backend.enable_padding(**padding)
            if backend is not None and truncation is not None:
                backend.enable_truncation(**truncation)

    def _prompt(self, text: str, ids: Sequence[int]) -> Prompt:
        self._check(ids)
        return Prompt(
            text=text,
            input_ids=tuple(int(i) for i in ids),
            tokens=tuple(self.surface(int(i)) for i in ids),
            special=tuple(int(i) in self._special for i in ids),
        )

    def _check(self, ids: Sequence[int]) -> None:
        if not len(ids):
            raise PromptError("the prompt has no tokens (this tokenizer adds none of its own): give at least one character")
        if self.limit is not None and len(ids) > self.limit:
            raise PromptError(
                f"the prompt has {len(ids):,} tokens and the model takes {self.limit:,}; nothing is ever cut off silently: shorten it"
            )
        self._check_ids(ids)

    def _check_ids(self, ids: Sequence[int]) -> None:
        wrong = [i for i in ids if not 0 <= i < self.size]
        if wrong:
            raise PromptError(f"token ids go from 0 to {self.size - 1}; got {wrong[0]}")


def check_unicode(text: str) -> None:
    """Raises PromptError at the first lone surrogate, which no tokenizer takes."""
    for position, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            raise PromptError(f"the text is not valid Unicode: lone surrogate U+{ord(character):04X} at character {position}")


def _stand_ins() -> dict[str, int]:
    """GPT-2's stand-in character of each byte: a printable byte is itself, the others follow in order from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


BYTE_OF = _stand_ins()


def _read_bytes(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in raw)
