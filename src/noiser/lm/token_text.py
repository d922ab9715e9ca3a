"""The text of single tokens, and their offsets in a longer text."""

import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from typing import Any

from noiser.errors import PromptError

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
WORD_START = "\u2581"
Offsets = tuple[tuple[int, int], ...]
"""First and one past the last character of each token."""


class TokenText:
    """The text of single tokens of a byte-level, SentencePiece or WordPiece tokenizer. Added tokens keep their spelling."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        decoder: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self._added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        self._byte_level = "ByteLevel" in str(decoder)
        self._continuing = decoder.prefix if type(decoder).__name__ == "WordPiece" else None

    @property
    def spells_spaces(self) -> bool:
        """Whether tokens hold the spaces of a text. WordPiece leaves them out."""
        return self._continuing is None

    def is_byte(self, token_id: int) -> bool:
        """Whether the token stands for one byte that no other token has: `<0x0A>`."""
        return BYTE_PIECE.fullmatch(self.tokenizer.convert_ids_to_tokens(token_id) or "") is not None

    def raw(self, token_id: int) -> bytes:
        """The token's UTF-8 bytes, with its leading space. An id without a token gives the bytes of `<id 7>`."""
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self.tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return f"<id {token_id}>".encode()
        if self._byte_level:
            return bytes(BYTE_OF[character] for character in piece)
        if BYTE_PIECE.fullmatch(piece):
            return bytes([int(piece[3:5], 16)])
        if self._continuing is not None:
            return (piece.removeprefix(self._continuing) if piece.startswith(self._continuing) else f" {piece}").encode()
        return piece.replace(WORD_START, " ").encode()

    def read(self, token_id: int) -> str:
        """The token's text, with its leading space. A fragment of a character is shown as its bytes: `<0xF0><0x9F>`."""
        raw = self.raw(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in raw)


def concatenate(raws: Iterable[bytes]) -> tuple[str, Offsets]:
    """The text of tokens one after the other, and their offsets in it. Fragments of one character all have its offsets."""
    decoder = getincrementaldecoder("utf-8")("replace")
    text, offsets, position = [], [], 0
    for raw in raws:
        text.append(decoder.decode(raw))
        unfinished = 1 if decoder.getstate()[0] else 0
        offsets.append((position, position + len(text[-1]) + unfinished if raw else position))
        position += len(text[-1])
    text.append(decoder.decode(b"", final=True))
    return "".join(text), tuple(offsets)


def align(raws: Sequence[bytes], text: str) -> Offsets | None:
    """The offsets of the tokens in `text`. None if the concatenated tokens differ from it in more than whitespace."""
    joined, offsets = concatenate(raws)
    position = 0
    starts: list[int] = []
    stops: list[int] = []
    for character in joined:
        while not character.isspace() and text[position : position + 1].isspace():
            position += 1
        starts.append(position)
        if text[position : position + 1] == character:
            position += 1
        elif not character.isspace():
            return None
        stops.append(position)
    if text[position:].strip():
        return None
    starts.append(position)
    return tuple((starts[start], stops[stop - 1] if start < stop else starts[start]) for start, stop in offsets)


def _bytes_of_characters() -> dict[str, int]:
    """The character that GPT-2 writes for each byte: a printable byte is itself, the others follow in order from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


BYTE_OF = _bytes_of_characters()


def check_unicode(text: str) -> None:
    """Raises PromptError if the text holds a lone surrogate, which no tokenizer takes."""
    for position, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            raise PromptError(f"the text is not valid Unicode: lone surrogate U+{ord(character):04X} at character {position}")
