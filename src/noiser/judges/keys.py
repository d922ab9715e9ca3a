"""Where a judge's key comes from, where it may be sent, and that it is shown nowhere."""

import base64
import logging
import os
import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from noiser.errors import OptionError

KEY, OPENAI_KEY, OPENAI_URL = "NOISER_JUDGE_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"
OPENAI = "https://api.openai.com/v1"
SHOWN = "[key]"
SHORTEST = 8
"""Characters of a key that is a secret. Shorter ones (`EMPTY`, `none`) stand for no key at all, and may well be a reply's word."""
CLIENTS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")
"""Whose loggers tell at level DEBUG what a server sent."""


def judge_url(url: str | None) -> str:
    """Where to ask: `url`, else what OPENAI_BASE_URL says, else OpenAI itself; without a slash at its end.

    Raises OptionError where that is no http(s) address, or holds more than an address: a name and password, a query, a fragment.
    """
    named = "--judge-url" if url is not None else OPENAI_URL
    given = url if url is not None else os.environ.get(OPENAI_URL) or OPENAI
    try:
        parts = urlsplit(given)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not given.isprintable() or " " in given:
        raise OptionError(f"{named} is no address of a server: give one like http://127.0.0.1:8000/v1 or https://host/v1")
    if set("@?#") & set(given):
        raise OptionError(f"{named} may hold no password, query or fragment (@, ? or #). A key comes from the environment: set {KEY}")
    return given.rstrip("/")


def judge_key(url: str | None) -> str | None:
    """The key, from the environment alone: NOISER_JUDGE_KEY, and only where no url was given OPENAI_API_KEY; None where neither is set.

    So OpenAI's key goes to no other server. Raises OptionError, without showing it, for a key that cannot be sent.
    """
    for name in (KEY,) if url is not None else (KEY, OPENAI_KEY):
        key = os.environ.get(name, "").strip()
        if key and not re.fullmatch(r"[!-~]+", key):
            raise OptionError(f"{name} holds a space, a line end or a letter that no key has: set it to the key alone")
        if key:
            return key
    return None


class Redactor:
    """Puts `[key]` for the key in any text: as it is, percent-encoded, escaped, or inside of base64 such as that of `Bearer KEY`."""

    def __init__(self, key: str | None) -> None:
        forms = [f"(?i:{_escaped(key)})", *map(_escaped, _in_base64(key.encode()))] if key and len(key) >= SHORTEST else []
        self._forms = re.compile("|".join(forms)) if forms else None

    def __call__(self, text: str) -> str:
        """The text without the key."""
        return self._forms.sub(SHOWN, text) if self._forms else text


def _escaped(text: str) -> str:
    """A pattern for the text whose characters may each be escaped for a URL, for JSON or for HTML."""
    return "".join(f"(?:{re.escape(each)}|(?i:%{ord(each):02x}|\\\\u00{ord(each):02x}|&#x{ord(each):x};)|&#{ord(each)};)" for each in text)


def _in_base64(key: bytes) -> Iterator[str]:
    """What base64 of a text that holds the key has in it, wherever the key begins: the characters that depend on the key alone."""
    for before in range(3):
        size = before + len(key)
        coded = base64.b64encode(bytes(before) + key + bytes(-size % 3)).decode()[-(-before * 8 // 6) : size * 8 // 6]
        yield coded
        yield coded.translate(str.maketrans("+/", "-_"))


class _Filter(logging.Filter):
    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._redact(record.getMessage()), ()
        if record.exc_info:
            record.exc_text, record.exc_info = self._redact(logging.Formatter().formatException(record.exc_info)), None
        return True


def redact_logs(redact: Redactor) -> Callable[[], None]:
    """Take the key out of all that the HTTP client logs, at any level, until what is returned is called. Other loggers stay as they
    are. The client must have been imported: its loggers are found by their names."""
    filtered = _Filter(redact)
    names = [*CLIENTS, *(name for name in logging.root.manager.loggerDict if name.split(".")[0] in CLIENTS)]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(filtered)

    def undo() -> None:
        for logger in loggers:
            logger.removeFilter(filtered)

    return undo
