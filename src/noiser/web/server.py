"""uvicorn's HTTP protocol with three more limits, against clients that are slow on purpose."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT = 10.0
"""Seconds from the start of a connection, or the first byte of a request, to the end of its headers."""
WRITE_TIMEOUT = 30.0
"""Seconds for which a client may leave a full send buffer unread."""
MAX_CONNECTIONS = 1000
"""Open connections at a time."""


class StrictHttpProtocol(H11Protocol):
    """Drops a client that does not finish its headers or does not read its answer, and refuses more than MAX_CONNECTIONS clients."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.access_log = False  # it contains query strings, and a handler on the root logger would switch it on
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the timer for the first headers."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        self._update_header_timer()

    def data_received(self, data: bytes) -> None:
        """Start or stop the timer for the headers."""
        super().data_received(data)
        self._update_header_timer()

    def on_response_complete(self) -> None:
        """Start the timer if the beginning of a next request is already here."""
        super().on_response_complete()
        if self.conn.trailing_data[0]:
            self._update_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both timers."""
        self._header_timer = _cancelled(self._header_timer)
        self._write_timer = _cancelled(self._write_timer)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read at present: start the timer for its answer."""
        super().pause_writing()
        self._write_timer = self._write_timer or self.loop.call_later(WRITE_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again: stop the timer."""
        self._write_timer = _cancelled(self._write_timer)
        super().resume_writing()

    def _update_header_timer(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:
            self._header_timer = _cancelled(self._header_timer)
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT, self._drop)

    def _drop(self) -> None:
        self._header_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def config(app: Any) -> Config:
    """uvicorn's configuration: no `Server` header, no access log, and a shutdown within a second."""
    return Config(
        app,
        http=StrictHttpProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=16 * 1024,
    )
