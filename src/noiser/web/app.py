"""The app: its addresses, and what stands behind each."""

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

from noiser.views.viewer import page
from noiser.web.errors import Refusal
from noiser.web.middleware import Access, ClientDisconnected, Guard, Receive, Scope, Send
from noiser.web.page import app_page
from noiser.web.queue import Job
from noiser.web.requests import Limits
from noiser.web.session import Session

if TYPE_CHECKING:
    from noiser.lm.model import LanguageModel

HEARTBEAT = 1.0
"""Seconds after which a stream says something in any case, so that a client that left is noticed."""
PAUSE = 0.2
"""Seconds between two words of a stream, at least."""


def create_app(load: "Callable[[], LanguageModel]", limits: Limits, access: Access, *, warm: bool = True) -> Starlette:
    """The app. It begins to read the model (`load`, in a thread of its own) when the server starts, and answers meanwhile.

    `app.state.room` is the model's room: its desk can be closed before the server ends, which stops the job under way.
    """
    room = Session(load, limits, warm=warm)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        room.open()
        yield
        room.desk.close()

    routes = [
        Route("/", _front, methods=["GET"]),
        Route("/template.html", _template, methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
        Route("/api/about", _about, methods=["GET"]),
        Route("/api/attribute", _attribute, methods=["POST"]),
        Route("/api/explain", _explain, methods=["POST"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: _not_here},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.room = room
    return app


async def _front(_: Request) -> Response:
    found = app_page()
    return Response(found.html, media_type="text/html", headers={"Content-Security-Policy": found.policy})


async def _template(_: Request) -> Response:
    return Response(page([], "noiser"), media_type="text/html")


async def _openapi(request: Request) -> Response:
    return Response(json.dumps(await run_in_threadpool(_room(request).openapi)), media_type="application/json")


async def _about(request: Request) -> Response:
    about = await run_in_threadpool(_room(request).about)
    return Response(json.dumps(about), media_type="application/json")


async def _attribute(request: Request) -> Response:
    """The JSON of an attribution or comparison, all at once."""
    room = _room(request)
    asked = room.read(await request.body(), streamed=False)
    key = room.key(asked, streamed=False)
    found = room.desk.cache.get(key)
    if found is None:
        async with _visit(room, key, room.work(asked, streamed=False), request.receive, patient=True) as visit:
            while visit.here and visit.job.state != "done":
                await visit.news(None)
            if not visit.here:
                raise ClientDisconnected
        if visit.job.error is not None:
            raise visit.job.error
        found = visit.job.answer
    return Response(found, media_type="application/json")


async def _explain(request: Request) -> Any:
    """The same as a stream of lines: where in the line it is, how far, and at last the view or what went wrong."""
    room = _room(request)
    asked = room.read(await request.body(), streamed=True)
    key = room.key(asked, streamed=True)
    found = room.desk.cache.get(key)
    if found is not None:
        return Response(_result(found, cached=True), media_type="application/x-ndjson")
    return _Stream(room, key, room.work(asked, streamed=True))


@dataclass(frozen=True)
class _Stream:
    """An answer in lines. The job's place in the line is taken before anything is sent, so that a full one is a 429."""

    room: Session
    key: str
    work: Callable[[Job], bytes]

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        async with _visit(self.room, self.key, self.work, receive, patient=False) as visit:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/x-ndjson")]})
            said = b""
            while visit.here:
                done = visit.job.state == "done"
                line = _end(visit.job) if done else _going(self.room, visit.job)
                if line != said or time.perf_counter() - visit.spoken >= HEARTBEAT:
                    said, visit.spoken = line, time.perf_counter()
                    await send({"type": "http.response.body", "body": line, "more_body": not done})
                if done:
                    return
                await visit.news(HEARTBEAT)
            raise ClientDisconnected


def _end(job: Job) -> bytes:
    """The last line about a job."""
    return _event("error", job.error.to_dict()) if job.error is not None else _result(job.answer or b"null", cached=job.cached)


def _going(room: Session, job: Job) -> bytes:
    """What there is to say about a job that is not done."""
    if job.state == "waiting" or not job.progress:
        return _event("queued", {"ahead": room.desk.ahead(job)})
    progress, now = dict(job.progress), time.perf_counter()
    ends = progress.pop("ends")
    progress["seconds"] = round(now - job.begun, 2)
    return _event("progress", {**progress, "seconds_left": None if ends is None else round(max(0.0, ends - now), 1)})


def _event(name: str, record: dict[str, Any]) -> bytes:
    return json.dumps({"event": name, **record}).encode() + b"\n"


def _result(view: bytes, *, cached: bool) -> bytes:
    return b'{"event": "result", "cached": %s, "view": %s}\n' % (b"true" if cached else b"false", view)


class _Visit:
    """A client and its job. One that is patient only wants to hear of the end."""

    def __init__(self, receive: Receive, *, patient: bool) -> None:
        self.job: Job
        self._patient = patient
        self.spoken = 0.0
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.create_task(_until_gone(receive))
        self._gone.add_done_callback(lambda _: self._changed.set())

    @property
    def here(self) -> bool:
        """Whether the client still waits."""
        return not self._gone.done()

    def heard(self, job: Job) -> None:
        """There is news of the job; called from any thread, maybe before `submit` has returned it."""
        if self._patient and job.state != "done":
            return
        self._loop.call_soon_threadsafe(self._changed.set)

    async def news(self, within: float | None) -> None:
        """Wait for news, the client's leaving, or so many seconds; where those are given at least PAUSE, unless it is the end."""
        begin = time.perf_counter()
        await self._wait(within)
        while within and self.job.state != "done" and self.here and (left := begin + PAUSE - time.perf_counter()) > 0:
            self._changed.clear()
            await self._wait(left)
        self._changed.clear()

    async def _wait(self, within: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changed.wait()

    def end(self) -> None:
        """Nobody listens any more."""
        self._gone.cancel()


@asynccontextmanager
async def _visit(room: Session, key: str, work: Callable[[Job], bytes], receive: Receive, *, patient: bool) -> AsyncIterator[_Visit]:
    """A job at the desk, given up when the block is left. Raises Refusal where the desk takes none."""
    visit = _Visit(receive, patient=patient)
    try:
        visit.job = room.desk.submit(key, work, visit.heard)
        try:
            yield visit
        finally:
            room.desk.leave(visit.job)
    finally:
        visit.end()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _room(request: Request) -> Session:
    return request.app.state.room


async def _not_here(_: Request, error: Exception) -> Response:
    """What Starlette finds wrong by itself: a path or method that is not there."""
    assert isinstance(error, HTTPException)
    said = Refusal(
        error.status_code, "HTTPError", {404: "there is nothing here", 405: "not with this method"}.get(error.status_code, error.detail)
    )
    return Response(said.body(), error.status_code, headers=dict(error.headers or {}), media_type="application/json")
