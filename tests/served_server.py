"""A server on loopback that answers as vLLM does, from a small model of transformers; on request badly. It keeps a log."""

import base64
import hashlib
import io
import json
import math
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

Fault = Callable[[Any, bytes], bytes | None]
"""Takes the handler and the right reply. Returns another body, or None if it has done all that is done."""


class FakeVllm:
    """vLLM's `/v1/models` and `/v1/completions` over a model of transformers, from embeddings or ids."""

    def __init__(
        self,
        model: Any,
        *,
        name: str = "tiny",
        port: int = 0,
        embeds: bool = True,
        max_logprobs: int = -1,
        scale: float = 1.0,
        processed: bool = False,
        faults: Callable[[random.Random], Fault | None] = lambda _: None,
        nan: bool = False,
    ) -> None:
        self.model, self.name, self.embeds, self.max_logprobs, self.scale = model, name, embeds, max_logprobs, scale
        self.processed, self.faults, self.nan = processed, faults, nan
        self.counts: Counter[str] = Counter()
        self.answered: set[str] = set()
        """Rows with an answer that arrived whole, with what was asked of them."""
        self.again: list[str] = []
        """Rows that were asked for after their answer."""
        self.headers: list[dict[str, str]] = []
        self._lock, self._random = threading.Lock(), random.Random(0)
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> "FakeVllm":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"vllm:http://127.0.0.1:{self.port}/{self.name}"

    def complete(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The status and the body of a reply."""
        if request["model"] != self.name:
            return _refusal(404, f"The model `{request['model']}` does not exist.")
        vocab = self.model.config.get_text_config().vocab_size
        most = vocab if self.max_logprobs == -1 else self.max_logprobs
        wanted = vocab if request["logprobs"] == -1 else request["logprobs"]
        if wanted > most and "logprob_token_ids" not in request:
            return _refusal(400, f"Requested sample logprobs of {wanted}, which is greater than max allowed: {most}")
        try:
            rows = self._rows(request)
        except ValueError as error:
            return _refusal(400, str(error))
        choices = [self._choice(index, row, request, wanted) for index, row in enumerate(rows)]
        return 200, {"model": self.name, "choices": choices}

    def _rows(self, request: dict[str, Any]) -> list[torch.Tensor]:
        table = self.model.get_input_embeddings()
        if "prompt" in request:
            return [table(torch.tensor(request["prompt"])).detach()]
        if not self.embeds:
            raise ValueError("You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        rows = [torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True) for text in request["prompt_embeds"]]
        width = table.weight.shape[1]
        if any(row.shape[1] != width for row in rows):
            raise ValueError(f"`prompt_embeds` hidden_size {rows[0].shape[1]} does not match the model's hidden_size {width}.")
        return [row.float() * self.scale for row in rows]

    @torch.no_grad()
    def _choice(self, index: int, row: torch.Tensor, request: dict[str, Any], top: int) -> dict[str, Any]:
        ids: list[int] = []
        embeds = row
        for _ in range(request["max_tokens"]):
            logprobs = self.model(inputs_embeds=embeds[None].clone()).logits[0, -1].float().log_softmax(-1)
            if allowed := request.get("allowed_token_ids"):
                mask = torch.full_like(logprobs, -math.inf)
                mask[allowed] = 0
                token = int((logprobs + mask).argmax())
                logprobs = (logprobs + mask).log_softmax(-1) if self.processed else logprobs
            else:
                token = int(logprobs.argmax())
            ids.append(token)
            if token in request.get("stop_token_ids", ()):
                break
            embeds = torch.cat([embeds, self.model.get_input_embeddings()(torch.tensor([token]))])
        shown = dict.fromkeys([token, *request.get("logprob_token_ids", logprobs.topk(top).indices.tolist())])
        named = {f"token_id:{each}": max(float(logprobs[each]), -9999.0) for each in shown}
        if self.nan and len(row) > 8:
            named = dict.fromkeys(named, math.nan)
        return {"index": index, "text": "x", "token_ids": ids, "logprobs": {"top_logprobs": [named]}}

    def log(self, request: dict[str, Any], *, arrived: bool) -> None:
        """Note which rows were asked for, or answered."""
        asked = json.dumps({name: value for name, value in request.items() if name != "prompt_embeds"}, sort_keys=True)
        keys = [hashlib.sha256((text + asked).encode()).hexdigest() for text in request.get("prompt_embeds", ())]
        with self._lock:
            if arrived:
                self.answered.update(keys)
            else:
                self.again += [key for key in keys if key in self.answered]

    def fault(self) -> Fault | None:
        with self._lock:
            return self.faults(self._random)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeVllm

    def do_GET(self) -> None:
        self.fake.headers.append(dict(self.headers))
        self.reply(200, json.dumps({"data": [{"id": self.fake.name, "max_model_len": 64}]}).encode())

    def do_POST(self) -> None:
        self.fake.headers.append(dict(self.headers))
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.log(request, arrived=False)
        fault = self.fake.fault()
        self.fake.counts["requests"] += 1
        if fault is not None:
            self.fake.counts["faults"] += 1
            if (body := fault(self, b"")) is not None:
                self.reply(200, body)
            return
        status, content = self.fake.complete({"logprobs": 0, **request})
        if status == 200:
            self.fake.log(request, arrived=True)
        self.reply(status, json.dumps(content).encode())

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _refusal(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}


def status(code: int, **headers: str) -> Fault:
    """An error of the server's own."""

    def fault(handler: Any, _: bytes) -> None:
        handler.reply(code, json.dumps(_refusal(code, "no")[1]).encode(), **headers)

    return fault


def reset(handler: Any, _: bytes) -> None:
    """The connection is torn down."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def page(_: Any, __: bytes) -> bytes:
    """What a proxy says that has lost its server."""
    return b"<html>502 Bad Gateway</html>"


def empty(_: Any, __: bytes) -> bytes:
    """No row was answered."""
    return b'{"choices": []}'


def cut(handler: Any, _: bytes) -> None:
    """Half a reply."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True
