"""What serving takes: memory without a model, cached answers a second, and how fast a client that left makes way.

    python -m benchmarks.serving

The default model serves in a process of its own (`noiser serve`); this process is the clients. Medians, and smallest to largest.
"""

import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import httpx
import psutil

RUNS = 5
SECONDS = 2.0
"""Of asking, in a run."""
ASK = {"prompt": "The Eiffel Tower is located in the city of", "method": "occlusion"}
LONG = {**ASK, "method": "noiser", "options": {"samples": 400, "search": "exact"}}
EMPTY = """
import sys, time
from noiser.cli.serve import bind
from noiser.web.middleware import Access
from noiser.web.app import create_app
from noiser.web.requests import Limits
from noiser.web.server import config
from noiser.web.session import Session
import uvicorn
Session.start = lambda self: None
listening = bind("127.0.0.1", 0)
print(f"noiser: http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
uvicorn.Server(config(create_app(lambda: None, Limits(), Access()))).run(sockets=[listening])
"""
"""A server that never begins to read its model."""


def main() -> None:
    """Measure and print."""
    empty, address = started([sys.executable, "-c", EMPTY])
    httpx.get(address)
    print(f"memory of a server before it reads a model: {psutil.Process(empty.pid).memory_info().rss / 2**20:.0f} MiB resident")
    empty.kill()
    server, address = started([sys.executable, "-m", "noiser", "serve", "--port", "0"])
    try:
        with httpx.Client(base_url=address, timeout=300) as client:
            while client.get("api/about").json()["status"] != "ready":
                time.sleep(0.2)
            body = client.post("api/attribute", json=ASK).content
        print(f"with the model: {psutil.Process(server.pid).memory_info().rss / 2**20:.0f} MiB resident")
        for clients in (1, 16):
            before = sum(psutil.Process(server.pid).cpu_times()[:2])
            found = [asyncio.run(cached(address, clients)) for _ in range(RUNS)]
            each = 1000 * (sum(psutil.Process(server.pid).cpu_times()[:2]) - before) / sum(count for _, count in found)
            rates = spread([rate for rate, _ in found], "{:.0f}")
            print(f"cached answers of {len(body):,} bytes, {clients} kept-alive clients: {rates} a second; {each:.2f} ms of CPU each")
        print(f"a client leaves, the next job begins: {spread([leaving(address) for _ in range(RUNS)], '{:.2f}')} s later")
    finally:
        begin = time.perf_counter()
        server.send_signal(signal.SIGINT)
        print(f"Ctrl-C: status {server.wait()} after {time.perf_counter() - begin:.2f} s")


def started(command: Sequence[str]) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, and its address."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ))
    assert process.stdout is not None
    found = re.match(r"noiser: (http://\S+)", process.stdout.readline())
    assert found
    return process, found[1]


async def cached(address: str, clients: int) -> tuple[float, int]:
    """Answers a second, and how many, to clients that ask one after the other, each on a connection that stays open."""
    port = urlsplit(address).port
    body = json.dumps(ASK).encode()
    head = (
        f"POST /api/attribute HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    end = time.perf_counter() + SECONDS

    async def client() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = 0
        while time.perf_counter() < end:
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer)
            assert answer.startswith(b"HTTP/1.1 200") and length
            await reader.readexactly(int(length[1]))
            count += 1
        writer.close()
        return count

    begin = time.perf_counter()
    counts = await asyncio.gather(*(client() for _ in range(clients)))
    return sum(counts) / (time.perf_counter() - begin), sum(counts)


def leaving(address: str) -> float:
    """Seconds from the moment a client leaves in the middle of a long job to the first progress of the one that waits."""
    with httpx.Client(base_url=address, timeout=300) as client:
        with client.stream("POST", "api/explain", json={**LONG, "target": f" {time.time()}"}) as stream:
            until(stream, lambda event: event["event"] == "progress" and event["forward_tokens"] > 0)
        left = time.perf_counter()
        with client.stream("POST", "api/explain", json={**ASK, "target": f" {time.time()}"}) as stream:
            until(stream, lambda event: event["event"] == "progress")
            return time.perf_counter() - left


def until(stream: httpx.Response, seen: Callable[[dict], bool]) -> None:
    """Read events until one is seen."""
    for line in stream.iter_lines():
        if seen(json.loads(line)):
            return
    raise RuntimeError("the stream ended before that")


def spread(values: Sequence[float], form: str) -> str:
    """The median, and the smallest and largest."""
    return f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))}, {len(values)} runs)"


if __name__ == "__main__":
    main()
