"""Tokens made safe to print: what is invisible or steers a terminal becomes visible."""

import re
import unicodedata
from collections.abc import Iterable

NAMED = {"\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d"}
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


FRAGMENTS = re.compile(r"(?:<0x[0-9A-F]{2}>)+")


def joined(tokens: Iterable[str]) -> str:
    """Tokens end to end, with characters that were split into bytes put together again where all their bytes are there."""
    return FRAGMENTS.sub(_whole, "".join(tokens))


def visible(text: str) -> str:
    """Newline, tab and return as symbols; every other control, format or unassigned character as its escape."""
    return "".join(NAMED.get(c) or (_escape(c) if unicodedata.category(c) in INVISIBLE else c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _whole(run: re.Match[str]) -> str:
    try:
        return bytes.fromhex(run[0].replace("<0x", "").replace(">", "")).decode()
    except UnicodeDecodeError:
        return run[0]
