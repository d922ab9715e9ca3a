"""HTTP on a socket, for clients that are slow on purpose: uvicorn's own protocol, with three limits that it has not."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_WITHIN = 10.0
"""Seconds from a request's first byte, or a connection's beginning, to the end of its headers."""
TAKEN_WITHIN = 30.0
"""Seconds for which a client may leave an answer that is too long for the buffers lying there."""
CONNECTIONS = 1000
"""At a time."""


class StrictHttpProtocol(H11Protocol):
    """Drops a client that does not finish its headers or does not take its answer, and refuses more clients than CONNECTIONS."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.access_log = False  # it has query strings, and a handler on the root logger would switch it on
        self._headers: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Begin to wait for headers."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of the headers, or no longer."""
        super().data_received(data)
        self._wait_for_headers()

    def on_response_complete(self) -> None:
        """What has come of the next request meanwhile is not all of its headers, unless it is under way already."""
        super().on_response_complete()
        if self.conn.trailing_data[0]:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._headers = _cancelled(self._headers)
        self._taking = _cancelled(self._taking)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client takes nothing at present."""
        super().pause_writing()
        self._taking = self._taking or self.loop.call_later(TAKEN_WITHIN, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        self._taking = _cancelled(self._taking)
        super().resume_writing()

    def _wait_for_headers(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:
            self._headers = _cancelled(self._headers)
        elif self._headers is None:
            self._headers = self.loop.call_later(HEADERS_WITHIN, self._drop)

    def _drop(self) -> None:
        self._headers = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def config(app: Any) -> Config:
    """How uvicorn serves an app of ours: no name of its own, an end within a second."""
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
