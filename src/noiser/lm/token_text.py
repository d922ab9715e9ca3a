"""What tokens read like, and where they lie in a text."""

import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from typing import Any

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
WORD_START = "\u2581"
Offsets = tuple[tuple[int, int], ...]
"""First and one past the last character of each token."""


class TokenText:
    """The text of single tokens: byte-level, SentencePiece's or WordPiece's, and added tokens as they were written."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        decoder: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self._added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        self._byte_level = "ByteLevel" in str(decoder)
        self._continuing = decoder.prefix if type(decoder).__name__ == "WordPiece" else None

    def raw(self, token_id: int) -> bytes:
        """Its UTF-8 bytes, leading space included; those of `<id 7>` where the tokenizer has no such token."""
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
        """What one token reads like, with its leading space; a fragment of a character as its bytes, `<0xF0><0x9F>`."""
        raw = self.raw(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in raw)


def laid_out(raws: Iterable[bytes]) -> tuple[str, Offsets]:
    """Tokens end to end: their text, and where each is in it. Fragments of one character all lie where it does."""
    decoder = getincrementaldecoder("utf-8")("replace")
    text, offsets, at = [], [], 0
    for raw in raws:
        text.append(decoder.decode(raw))
        unfinished = 1 if decoder.getstate()[0] else 0
        offsets.append((at, at + len(text[-1]) + unfinished if raw else at))
        at += len(text[-1])
    text.append(decoder.decode(b"", final=True))
    return "".join(text), tuple(offsets)


def fitted(raws: Sequence[bytes], text: str) -> Offsets | None:
    """Where the tokens lie in `text`, if end to end they differ from it in whitespace alone; else None."""
    laid, offsets = laid_out(raws)
    at = 0
    starts: list[int] = []
    stops: list[int] = []
    for character in laid:
        while not character.isspace() and text[at : at + 1].isspace():
            at += 1
        starts.append(at)
        if text[at : at + 1] == character:
            at += 1
        elif not character.isspace():
            return None
        stops.append(at)
    if text[at:].strip():
        return None
    starts.append(at)
    return tuple((starts[start], stops[stop - 1] if start < stop else starts[start]) for start, stop in offsets)


def _stand_ins() -> dict[str, int]:
    """GPT-2's stand-in character of each byte: a printable byte is itself, the others follow in order from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


BYTE_OF = _stand_ins()
