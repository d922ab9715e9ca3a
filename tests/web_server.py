"""A real server on a free port, in a thread, with a tiny model: what the tests of the web app talk to."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

import noiser
from noiser.cli.serve import bind
from noiser.web.app import create_app
from noiser.web.middleware import Access
from noiser.web.requests import Limits
from noiser.web.server import config
from noiser.web.session import Session
from tests.conftest import byte_tokenizer, tiny

JSON = {"Content-Type": "application/json"}


def head(served: "Served", path: str, length: int) -> bytes:
    """The beginning of a POST, for tests that write to sockets themselves."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: localhost:{served.port}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


@dataclass(frozen=True)
class Served:
    """A server under test."""

    port: int
    session: Session
    lm: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        with self.client() as client:
            return client.post(path, content=body if isinstance(body, bytes) else json.dumps(body), headers={**JSON, **headers})

    def attribute(self, **request: Any) -> httpx.Response:
        return self.post("/api/attribute", request)

    def events(self, **request: Any) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.post("/api/explain", request).text.splitlines()]


def small(**options: Any) -> noiser.LanguageModel:
    """A random model of 2 layers that takes 64 bytes."""
    return noiser.load(tiny("llama"), byte_tokenizer(), **options)


class Gate:
    """Holds a model back at every forward pass while it is shut."""

    def __init__(self, lm: noiser.LanguageModel) -> None:
        self.open, self.passes = threading.Event(), 0
        self.open.set()
        lm.model.register_forward_pre_hook(self._wait)

    def _wait(self, *_: Any) -> None:
        self.passes += 1
        assert self.open.wait(60)


@contextmanager
def serving(
    load: Callable[[], Any] = small, limits: Limits | None = None, access: Access | None = None, *, warm: bool = False, ready: bool = True
) -> Iterator[Served]:
    """A server from beginning to end; `ready` waits until it has its model."""
    loaded: list[Any] = []

    def kept() -> Any:
        loaded.append(load())
        return loaded[0]

    app = create_app(kept, limits or Limits(), access or Access(), warm=warm)
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        session = app.state.session
        until(lambda: server.started and (not ready or session.queue.status == "ready"))
        yield Served(listening.getsockname()[1], session, loaded[0] if loaded else None)
    finally:
        app.state.session.queue.close()
        server.should_exit = True
        thread.join(10)
        assert app.state.session.queue.join(10.0)


def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for it; an assertion fails where it does not become so."""
    end = time.perf_counter() + seconds
    while not true():
        assert time.perf_counter() < end, "it did not happen"
        time.sleep(0.005)
