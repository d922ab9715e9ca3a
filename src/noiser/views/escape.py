"""Makes text safe to print: characters that are invisible or control a terminal become visible."""

import re
import unicodedata
from collections.abc import Iterable

SYMBOLS = {"\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d"}
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of characters that are escaped."""
_BYTE_TOKENS = re.compile(r"(?:<0x[0-9A-F]{2}>)+")


def visible(text: str) -> str:
    """The text with newline, tab and return as symbols, and any other control, format or unassigned character as its escape."""
    return "".join(SYMBOLS.get(c) or (_escape(c) if unicodedata.category(c) in INVISIBLE else c) for c in text)


def join_tokens(tokens: Iterable[str]) -> str:
    """The tokens as one text. Byte tokens (<0xE4>) become the character that they spell, if all its bytes are there."""
    return _BYTE_TOKENS.sub(_decode, "".join(tokens))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _decode(byte_tokens: re.Match[str]) -> str:
    try:
        return bytes.fromhex(byte_tokens[0].replace("<0x", "").replace(">", "")).decode()
    except UnicodeDecodeError:
        return byte_tokens[0]
