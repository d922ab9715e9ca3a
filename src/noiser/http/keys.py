"""A server's address and its key: the key is read from the environment, sent to that server, and shown nowhere."""

import base64
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

from noiser.errors import OptionError

PLACEHOLDER = "[key]"
MIN_SECRET_LENGTH = 8
"""Shorter keys (`EMPTY`, `none`) stand for no key and are no secret: a reply may hold such a word."""
CLIENT_PACKAGES = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")
"""Packages whose loggers show at level DEBUG what a server sent."""


def check_url(address: str, source: str, key_name: str) -> str:
    """Return the address of a server, without a slash at its end. `source` is the option that it came from.

    Raises OptionError if it is no http(s) address, or if it holds a user name, a password, a query or a fragment. The error does not
    show the address.
    """
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not address.isprintable() or " " in address:
        raise OptionError(f"{source} is no address of a server: give an address like http://127.0.0.1:8000/v1 or https://host/v1")
    if set("@?#") & set(address):
        raise OptionError(f"{source} may hold no password, query or fragment (@, ? or #). A key comes from the environment: set {key_name}")
    return address.rstrip("/")


def read_key(names: Sequence[str]) -> str | None:
    """Return the first key that one of these variables of the environment holds. None if none is set.

    Raises OptionError for a key that cannot be sent; the error does not show it.
    """
    for name in names:
        key = os.environ.get(name, "").strip()
        if key and not re.fullmatch(r"[!-~]+", key):
            raise OptionError(f"{name} holds a space, a line end or a character that no key has: set it to the key alone")
        if key:
            return key
    return None


class Redactor:
    """Replaces the key by `[key]` in any text: plain, percent-enencoded, escaped, or inside base64 such as that of `Bearer KEY`."""

    def __init__(self, key: str | None) -> None:
        forms = [f"(?i:{_escaped(key)})", *map(_escaped, _in_base64(key.encode()))] if key and len(key) >= MIN_SECRET_LENGTH else []
        self._forms = re.compile("|".join(forms)) if forms else None

    def __call__(self, text: str) -> str:
        """Return the text without the key."""
        return self._forms.sub(PLACEHOLDER, text) if self._forms else text


def _escaped(text: str) -> str:
    """Return a pattern of the text in which each character may be escaped for a URL, for JSON or for HTML."""
    return "".join(f"(?:{re.escape(char)}|(?i:%{ord(char):02x}|\\\\u00{ord(char):02x}|&#x{ord(char):x};)|&#{ord(char)};)" for char in text)


def _in_base64(key: bytes) -> Iterator[str]:
    """Yield the characters of a base64 text that depend on the key alone, for each position at which the key may begin."""
    for before in range(3):
        size = before + len(key)
        encoded = base64.b64encode(bytes(before) + key + bytes(-size % 3)).decode()[-(-before * 8 // 6) : size * 8 // 6]
        yield encoded
        yield encoded.translate(str.maketrans("+/", "-_"))


class _KeyFilter(logging.Filter):
    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._redact(record.getMessage()), ()
        if record.exc_info:
            record.exc_text, record.exc_info = self._redact(logging.Formatter().formatException(record.exc_info)), None
        return True


def redact_logs(redact: Redactor) -> Callable[[], None]:
    """Remove the key from the HTTP client's logs, at every level. Returns a function that undoes it. Other loggers stay as they are.

    The client has to be imported before: its loggers are found by their names.
    """
    key_filter = _KeyFilter(redact)
    names = [*CLIENT_PACKAGES, *(name for name in logging.root.manager.loggerDict if name.split(".")[0] in CLIENT_PACKAGES)]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(key_filter)

    def undo() -> None:
        for logger in loggers:
            logger.removeFilter(key_filter)

    return undo
