"""The web app: its routes, and the function behind each."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from noiser.views.viewer.page import page
from noiser.web.errors import HttpError
from noiser.web.middleware import Access, ClientDisconnected, Receive, Scope, SecurityMiddleware, Send
from noiser.web.page import app_page
from noiser.web.queue import Job
from noiser.web.requests import Limits
from noiser.web.session import Session

if TYPE_CHECKING:
    from noiser.lm.model import LanguageModel

HEARTBEAT = 1.0
"""A stream sends a line at least every so many seconds, so that the server notices a client that left."""
MIN_PAUSE = 0.2
"""Least seconds between two lines of a stream."""
STATUS_MESSAGES = {404: "there is nothing here", 405: "not with this method"}


def create_app(load: "Callable[[], LanguageModel]", limits: Limits, access: Access, *, warm: bool = True) -> Starlette:
    """The ASGI app. It calls `load` in a thread of its own when the server starts, and answers meanwhile.

    `app.state.session.queue` can be closed before the server ends, which stops the running job.
    """
    session = Session(load, limits, warm=warm)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        session.start()
        yield
        session.queue.close()

    routes = [
        Route("/", _front_page, methods=["GET"]),
        Route("/template.html", _template, methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
        Route("/api/about", _about, methods=["GET"]),
        Route("/api/attribute", _attribute, methods=["POST"]),
        Route("/api/explain", _explain, methods=["POST"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(SecurityMiddleware, access=access)],
        exception_handlers={HTTPException: _routing_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.session = session
    return app


async def _front_page(_: Request) -> Response:
    front = app_page()
    return Response(front.html, media_type="text/html", headers={"Content-Security-Policy": front.policy})


async def _template(_: Request) -> Response:
    return Response(page([], "noiser", sources=True), media_type="text/html")


async def _openapi(request: Request) -> Response:
    return Response(json.dumps(await run_in_threadpool(_session(request).openapi)), media_type="application/json")


async def _about(request: Request) -> Response:
    about = await run_in_threadpool(_session(request).about)
    return Response(json.dumps(about), media_type="application/json")


async def _attribute(request: Request) -> Response:
    """The JSON of an attribution or comparison, in one piece."""
    session = _session(request)
    parsed = session.parse_request(await request.body(), streamed=False)
    key = session.cache_key(parsed, streamed=False)
    answer = session.queue.cache.get(key)
    if answer is None:
        function = session.job_function(parsed, streamed=False)
        async with _submitted(session, key, function, request.receive, until_done=True) as client:
            while client.connected and client.job.state != "done":
                await client.wait(None)
            if not client.connected:
                raise ClientDisconnected
        if client.job.error is not None:
            raise client.job.error
        answer = client.job.answer
    return Response(answer, media_type="application/json")


async def _explain(request: Request) -> Any:
    """The same as a stream of JSON lines: the place in the queue, the progress, and at last the view or an error."""
    session = _session(request)
    parsed = session.parse_request(await request.body(), streamed=True)
    key = session.cache_key(parsed, streamed=True)
    answer = session.queue.cache.get(key)
    if answer is not None:
        return Response(_result_line(answer, cached=True), media_type="application/x-ndjson")
    return _StreamResponse(session, key, session.job_function(parsed, streamed=True))


async def _routing_error(_: Request, error: Exception) -> Response:
    """The response for a path or method that does not exist, which Starlette itself finds."""
    assert isinstance(error, HTTPException)
    told = HttpError(error.status_code, "HTTPError", STATUS_MESSAGES.get(error.status_code, error.detail))
    return Response(told.to_json(), error.status_code, headers=dict(error.headers or {}), media_type="application/json")


def _session(request: Request) -> Session:
    return request.app.state.session


@dataclass(frozen=True)
class _StreamResponse:
    """An answer in lines. The job is submitted before anything is sent, so a full queue is a response with status 429."""

    session: Session
    key: str
    function: Callable[[Job], bytes]

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        async with _submitted(self.session, self.key, self.function, receive, until_done=False) as client:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/x-ndjson")]})
            last_line, sent_at = b"", 0.0
            while client.connected:
                done = client.job.state == "done"
                line = _last_line(client.job) if done else _progress_line(self.session, client.job)
                if line != last_line or time.perf_counter() - sent_at >= HEARTBEAT:
                    last_line, sent_at = line, time.perf_counter()
                    await send({"type": "http.response.body", "body": line, "more_body": not done})
                if done:
                    return
                await client.wait(HEARTBEAT)
            raise ClientDisconnected


def _last_line(job: Job) -> bytes:
    if job.error is not None:
        return _event_line("error", job.error.to_dict())
    return _result_line(job.answer or b"null", cached=job.cached)


def _progress_line(session: Session, job: Job) -> bytes:
    if job.state == "waiting" or not job.progress:
        return _event_line("queued", {"ahead": session.queue.ahead(job)})
    progress, now = dict(job.progress), time.perf_counter()
    ends_at = progress.pop("ends_at")
    progress["seconds"] = round(now - job.started_at, 2)
    return _event_line("progress", {**progress, "seconds_left": None if ends_at is None else round(max(0.0, ends_at - now), 1)})


def _event_line(name: str, record: dict[str, Any]) -> bytes:
    return json.dumps({"event": name, **record}).encode() + b"\n"


def _result_line(view: bytes, *, cached: bool) -> bytes:
    return b'{"event": "result", "cached": %s, "view": %s}\n' % (b"true" if cached else b"false", view)


class _Client:
    """A client that waits for its job. With `until_done` only the end of the job wakes it."""

    def __init__(self, receive: Receive, *, until_done: bool) -> None:
        self.job: Job
        self._until_done = until_done
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._disconnect = asyncio.create_task(_wait_for_disconnect(receive))
        self._disconnect.add_done_callback(lambda _: self._changed.set())

    @property
    def connected(self) -> bool:
        """Whether the client still waits."""
        return not self._disconnect.done()

    def notify(self, job: Job) -> None:
        """The job changed. Any thread may call this, also before `submit` has returned the job."""
        if self._until_done and job.state != "done":
            return
        self._loop.call_soon_threadsafe(self._changed.set)

    async def wait(self, timeout: float | None) -> None:
        """Wait until the job changes, the client leaves, or `timeout` seconds pass. With a timeout, wait MIN_PAUSE at least unless
        the job is done."""
        begin = time.perf_counter()
        await self._wait_for_change(timeout)
        while timeout and self.job.state != "done" and self.connected and (pause := begin + MIN_PAUSE - time.perf_counter()) > 0:
            self._changed.clear()
            await self._wait_for_change(pause)
        self._changed.clear()

    async def _wait_for_change(self, timeout: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()

    def stop(self) -> None:
        """Stop listening for the disconnect."""
        self._disconnect.cancel()


@asynccontextmanager
async def _submitted(
    session: Session, key: str, function: Callable[[Job], bytes], receive: Receive, *, until_done: bool
) -> AsyncIterator[_Client]:
    """A client with its job in the queue. The job is cancelled when the block is left. Raises HttpError if the queue refuses it."""
    client = _Client(receive, until_done=until_done)
    try:
        client.job = session.queue.submit(key, function, client.notify)
        try:
            yield client
        finally:
            session.queue.cancel(client.job)
    finally:
        client.stop()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
