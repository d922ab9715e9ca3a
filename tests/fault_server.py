"""A server that completes chats on loopback, badly on purpose: it follows a plan of faults, and keeps a log of what it did."""

import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Fault:
    """What to do with a request instead of answering it."""

    kind: str
    """For the log."""
    status: int = 200
    body: str | bytes = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: float = 0.0
    """Seconds without a word, then the connection is closed."""
    reset: bool = False
    """The connection is torn down (RST)."""
    cut: int = 0
    """So many bytes at the end of the body are announced and never sent."""
    drip: float = 0.0
    """Seconds between two bytes of the body."""


def refusal(status: int, message: str = "no", *, retry_after: str | None = None, **error: Any) -> Fault:
    """An error as OpenAI's API puts it."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Fault(str(status), status, json.dumps({"error": {"message": message, **error}}), headers)


def reset() -> Fault:
    return Fault("reset", reset=True)


def hang(seconds: float = 30.0) -> Fault:
    return Fault("hang", hang=seconds)


def page(status: int = 200) -> Fault:
    """What a proxy says that has lost its server."""
    return Fault("page", status, "<html><body><h1>502 Bad Gateway</h1></body></html>", {"Content-Type": "text/html"})


def said(content: str | None, *, kind: str = "answered", model: str = "fake-1", finish: str = "stop", **message: Any) -> Fault:
    """A completion that is no fault, but of our own making."""
    return Fault(kind, body=completion(content, model, finish, **message))


def completion(content: str | None, model: str, finish: str | None = "stop", **message: Any) -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return json.dumps({"id": "c", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]})


@dataclass(frozen=True)
class Request:
    """One that came in."""

    number: int
    """From 0 on."""
    attempt: int
    """How many with the same messages came before."""
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    """By their names in lower case."""
    path: str
    at: float
    """Seconds of the monotonic clock."""

    @property
    def last(self) -> str:
        """The last message: what is asked."""
        return self.body["messages"][-1]["content"]


Plan = Callable[[Request], Fault | None]


def seeded(seed: int, faults: Sequence[tuple[float, Callable[[], Fault]]]) -> Plan:
    """Faults with these probabilities, drawn anew for each attempt at each question; the same whatever the order of requests."""

    def plan(request: Request) -> Fault | None:
        drawn = random.Random(f"{seed}/{request.last}/{request.attempt}").random()
        for share, fault in faults:
            if drawn < share:
                return fault()
            drawn -= share
        return None

    return plan


def script(*faults: Fault | None, then: Fault | None = None) -> Plan:
    """One after the other, whoever asks; `then` is for all that come later."""
    return lambda request: faults[request.number] if request.number < len(faults) else then


class FaultServer:
    """Use it as a context manager. `answer` makes a reply's content of a request's body; `plan` says which requests go wrong.

    `structured`: `yes` (a schema that leaves one word is obeyed; for others `answer` sees to it), `refused` (400), `ignored`.
    `refuses`: parameters that lead to a 400 which names them.
    `model`: the id that it says it is; it may be changed at any time.
    """

    def __init__(
        self,
        answer: Callable[[Mapping[str, Any]], str] = lambda body: "word",
        plan: Plan = lambda request: None,
        *,
        structured: str = "yes",
        refuses: Sequence[str] = (),
        model: str = "fake-1",
        delay: float = 0.0,
    ) -> None:
        self.answer, self.plan, self.structured, self.refuses, self.model, self.delay = answer, plan, structured, refuses, model, delay
        self.requests: list[Request] = []
        self.log: Counter[str] = Counter()
        """What became of the requests: the faults' kinds, and `answered`."""
        self.answered: list[str] = []
        """The messages, as JSON, of each request that was answered in full."""
        self.most = 0
        """Requests that were under way at the same time."""
        self._now, self._lock, self._closing = 0, threading.Lock(), threading.Event()
        self._attempts: Counter[str] = Counter()
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> "FaultServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def begin(self, body: Mapping[str, Any], headers: Mapping[str, str], path: str) -> Request:
        messages = json.dumps(body["messages"])
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            request = Request(len(self.requests), self._attempts[messages], body, headers, path, time.monotonic())
            self._attempts[messages] += 1
            self.requests.append(request)
        return request

    def outcome(self, request: Request) -> Fault:
        """What is going to be sent."""
        self._closing.wait(self.delay)
        fault = self.plan(request) or self._refused(request.body) or Fault("answered", body=self._completion(request.body))
        with self._lock:
            self._now -= 1
            self.log[fault.kind] += 1
            if fault.kind == "answered":
                self.answered.append(json.dumps(request.body["messages"]))
        self._closing.wait(fault.hang)
        return fault

    def _refused(self, body: Mapping[str, Any]) -> Fault | None:
        for name in self.refuses:
            if name in body:
                return refusal(400, f"Unsupported parameter: '{name}' is not supported with this model.", param=name)
        if "response_format" in body and self.structured == "refused":
            return refusal(400, "This server can do no such thing.")
        return None

    def _completion(self, body: Mapping[str, Any]) -> str:
        if "response_format" in body and self.structured == "yes":
            schema = body["response_format"]["json_schema"]["schema"]
            if "enum" in schema.get("properties", {}).get("word", {}):
                return completion(json.dumps({"word": schema["properties"]["word"]["enum"][0]}), self.model)
        return completion(self.answer(body), self.model)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that left is none of our business."""


def _handler(server: FaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = server.outcome(server.begin(body, {name.lower(): value for name, value in self.headers.items()}, self.path))
            if fault.reset or fault.hang:
                self._drop(abruptly=fault.reset)
            else:
                self._send(fault)

        def _send(self, fault: Fault) -> None:
            data = fault.body.encode() if isinstance(fault.body, str) else fault.body
            self.send_response(fault.status)
            for name, value in {"Content-Type": "application/json", **fault.headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            for part in [data[place : place + 1] for place in range(len(data))] if fault.drip else [data[: len(data) - fault.cut]]:
                self.wfile.write(part)
                time.sleep(fault.drip)
            self.close_connection = bool(fault.cut) or self.close_connection

        def _drop(self, *, abruptly: bool) -> None:
            self.close_connection = True
            if abruptly:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.rfile.close()
                self.connection.close()

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    return Handler
