"""What a client is told instead of an answer: a status and a sentence, never a traceback."""

import json
import logging
from typing import Any

from noiser.errors import DeviceMemoryError, ForeignError, NoiserError
from noiser.views.labels import visible

logger = logging.getLogger("noiser.web")
MAX_MESSAGE = 500
"""Characters of a message. A message may quote a request, which can be long."""


class HttpError(Exception):
    """A request gets this error instead of an answer."""

    def __init__(self, status: int, kind: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "\u2026"
        self.retry_after = retry_after
        """Seconds after which the client may ask again; None if it need not try."""

    def to_dict(self) -> dict[str, Any]:
        """`class` and `message`. Control and format characters are made visible."""
        return {"class": self.kind, "message": visible(self.message)}

    def to_json(self) -> bytes:
        """The body of the response."""
        return json.dumps({"error": self.to_dict()}).encode()


def to_http_error(error: Exception) -> HttpError:
    """The error that a client sees. An unexpected exception goes to the log with its traceback, and only there."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, MemoryError | DeviceMemoryError):
        return HttpError(507, "DeviceMemoryError", str(error) or "there is not enough memory for this")
    if isinstance(error, ForeignError):
        logger.error("a method failed", exc_info=error)
        return HttpError(500, type(error).__name__, str(error))
    if isinstance(error, NoiserError):
        return HttpError(422, type(error).__name__, str(error))
    logger.error("unexpected error", exc_info=error)
    return HttpError(500, "InternalError", "an unexpected error occurred; the server's log has the details")
