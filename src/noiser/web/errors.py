"""What a client is told when it gets no answer: a status and a sentence, never a traceback."""

import json
import logging
from typing import Any

from noiser.errors import DeviceMemoryError, ForeignError, NoiserError
from noiser.views.escape import visible

logger = logging.getLogger("noiser.web")
LONGEST = 500
"""Characters of a message; what it quotes of a request may be long."""


class Refusal(Exception):  # noqa: N818  (it is an answer as good as any)
    """A request that is not answered, and why."""

    def __init__(self, status: int, kind: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message if len(message) <= LONGEST else message[: LONGEST - 1] + "\u2026"
        self.retry_after = retry_after
        """Seconds after which to ask again, where that may help."""

    def to_dict(self) -> dict[str, Any]:
        """`class` and `message`; control and format characters of what it quotes are made visible."""
        return {"class": self.kind, "message": visible(self.message)}

    def body(self) -> bytes:
        """The answer's JSON."""
        return json.dumps({"error": self.to_dict()}).encode()


def refusal_of(error: Exception) -> Refusal:
    """What a client is told about an exception. One that is not ours goes to the log with its traceback, and only there."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, MemoryError | DeviceMemoryError):
        said = str(error) or "there is not enough memory for this"
        return Refusal(507, "DeviceMemoryError", said)
    if isinstance(error, ForeignError):
        logger.error("a method failed", exc_info=error)
        return Refusal(500, type(error).__name__, str(error))
    if isinstance(error, NoiserError):
        return Refusal(422, type(error).__name__, str(error))
    logger.error("unforeseen", exc_info=error)
    return Refusal(500, "InternalError", "something went wrong that nobody foresaw; the server's log has it")
