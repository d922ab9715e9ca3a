"""One model, many clients: each gets its own answer, the queue is bounded, and a client that leaves costs nothing more."""

import asyncio
import gc
import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import psutil
import pytest
import torch

import noiser
from noiser.errors import ModelError
from noiser.methods import METHODS
from noiser.registry import DEFAULT_METHODS, Method
from noiser.web.errors import HttpError
from noiser.web.page import EXAMPLES
from noiser.web.queue import AnswerCache, CostEstimates, JobQueue
from noiser.web.requests import Limits
from tests.web_server import Gate, head, serving, small, until


def ask(prompt, method="occlusion", **more):
    return {"prompt": prompt, "method": method, **more}


@contextmanager
def streaming(served, request):
    """A client in the middle of a stream; its socket is closed at the end, whatever is still to come."""
    body = json.dumps(request).encode()
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(head(served, "/api/explain", len(body)) + body)
        yield connection


def heard(connection, word):
    """Read until the word is there."""
    got = b""
    while word not in got:
        piece = connection.recv(65536)
        assert piece, got
        got += piece
    return got


@pytest.mark.slow
def test_two_hundred_clients_each_get_their_own(capsys):
    """All at once, every prompt another one: text and scores are those that the library gives.

    Mutants: the queue answers with what is first in its cache; a key without the prompt.
    """
    prompts = [f"client {n} says {n * n}" for n in range(200)]

    async def all_at_once(url):
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(client.post("/api/attribute", json=ask(prompt, "input_x_gradient")) for prompt in prompts))

    with serving(limits=Limits(queue=200)) as served:
        begin = time.perf_counter()
        answers = asyncio.run(all_at_once(served.url))
        seconds = time.perf_counter() - begin
    assert [answer.status_code for answer in answers] == [200] * 200
    alone = noiser.attribute_many(small(), prompts, "input_x_gradient")
    found = [answer.json() for answer in answers]
    for prompt, got, wanted in zip(prompts, found, alone, strict=True):
        assert got["prompt"]["text"] == prompt
        np.testing.assert_allclose(got["scores"], wanted.scores, rtol=1e-4, atol=1e-7)
    assert len({str(got["scores"]) for got in found}) == 200, "no two are alike, so that an exchange would show"
    with capsys.disabled():
        print(f"\n200 clients with prompts of their own: each got its own answer, all after {seconds:.1f} s")


def test_every_stream_comes_to_its_end():
    """Fifty at once: each is whole, and its last line is its own result. Mutant: `done` is read after the line was made."""

    async def all_at_once(url):
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            requests = [{"prompt": f"{n}", "methods": ["uniform"], "curves": False} for n in range(50)]
            return await asyncio.gather(*(client.post("/api/explain", json=request) for request in requests))

    with serving(limits=Limits(queue=50)) as served:
        answers = asyncio.run(all_at_once(served.url))
    for n, answer in enumerate(answers):
        last = json.loads(answer.text.splitlines()[-1])
        assert last["event"] == "result" and last["view"]["prompt"]["text"] == f"{n}"
        assert answer.text.count('"result"') == 1


def test_a_full_line_sends_away():
    """Mutant: `len(self._waiting) > self._max_waiting`."""
    lm = small()
    gate = Gate(lm)
    with serving(lambda: lm, Limits(queue=3)) as served:
        gate.open.clear()
        results = []
        threads = []
        for n in range(4):
            threads.append(threading.Thread(target=lambda n=n: results.append(served.attribute(**ask(f"waits {n}")))))
            threads[-1].start()
            until(lambda n=n: served.session.queue._running and len(served.session.queue._waiting) == n)
        answer = served.attribute(**ask("one too many"))
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1 and answer.json()["error"]["class"] == "QueueFull"
        assert served.post("/api/explain", ask("one too many")).status_code == 429
        with served.client() as client:
            assert client.get("/api/about").status_code == 200, "the page is there while the model works"
        gate.open.set()
        for thread in threads:
            thread.join()
        assert [result.status_code for result in results] == [200] * 4
        assert served.attribute(**ask("one too many")).status_code == 200


def test_who_waits_hears_of_it():
    """Where in the line, again when that changes, then the answer; a sign of life a second while nothing happens."""
    lm = small()
    gate = Gate(lm)
    with serving(lambda: lm) as served, ExitStack() as stack:
        gate.open.clear()
        with streaming(served, ask("first")):
            until(lambda: served.session.queue._running)
            with streaming(served, ask("second")) as second:
                heard(second, b'"ahead": 1')
                third = stack.enter_context(streaming(served, ask("third")))
                heard(third, b'"ahead": 2')
                begin = time.perf_counter()
                heard(third, b'"ahead": 2')
                assert 0.5 < time.perf_counter() - begin < 3
            heard(third, b'"ahead": 1')
            gate.open.set()
            heard(third, b'"result"')


@pytest.mark.parametrize("path", ["/api/explain", "/api/attribute"])
def test_a_client_that_leaves_stops_its_job(path, capsys):
    """The model's work ends at the next batch, and the next in line begins. Mutant: `cancel` does not set `job.cancelled`."""
    lm = small(token_budget=64)
    gate = Gate(lm)
    long = ask("a long question that is asked", "noiser", options={"samples": 500, "search": "exact"})
    with serving(lambda: lm) as served:
        body = json.dumps(long).encode()
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(head(served, path, len(body)) + body)
            until(lambda: gate.passes > 20)
        begin = time.perf_counter()
        answer = served.attribute(**ask("the next"))
        waited = time.perf_counter() - begin
        assert answer.json()["scores"] == noiser.attribute(small(token_budget=64), "the next", "occlusion").scores.tolist()
        spent = lm.token_counter.forward_tokens
        time.sleep(0.3)
        assert lm.token_counter.forward_tokens == spent
        assert waited < 2
    with capsys.disabled():
        print(f"\n{path}: the next client had its answer {1000 * waited:.0f} ms after the one before it left")


def test_a_client_that_leaves_does_not_wait_for_a_batch(capsys):
    """In the middle of a forward pass, before the next module. Mutant: `_cancellable` registers no hook."""
    lm = small()
    reached = threading.Event()

    def slowly(*_):
        reached.set()
        time.sleep(0.3)

    for layer in lm.model.model.layers:
        layer.register_forward_hook(slowly)
    with serving(lambda: lm) as served:
        with streaming(served, ask("first")) as first:
            heard(first, b'"event"')
            assert reached.wait(20)
        until(lambda: served.session.queue._running is None, 0.5)
        assert served.session.queue.cache.size == 0
        assert not torch.nn.modules.module._global_forward_pre_hooks


def test_a_client_that_leaves_the_line_is_not_asked_for():
    lm = small()
    gate = Gate(lm)
    with serving(lambda: lm) as served:
        gate.open.clear()
        with streaming(served, ask("first")) as first:
            until(lambda: served.session.queue._running)
            with streaming(served, ask("changes its mind")) as other:
                heard(other, b'"ahead": 1')
            until(lambda: not served.session.queue._waiting)
            gate.open.set()
            heard(first, b'"result"')
        request = served.session.parse_request(json.dumps(ask("changes its mind")).encode(), streamed=True)
        key = served.session.cache_key(request, streamed=True)
        assert served.session.queue.cache.get(key) is None


def test_equal_questions_are_computed_once():
    """Also where the second came while the first was under way; a cached answer does not wait in line."""
    lm = small()
    gate = Gate(lm)
    with serving(lambda: lm) as served:
        assert served.attribute(**ask("known")).status_code == 200
        gate.open.clear()
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(served.attribute(**ask("new")))) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: len(served.session.queue._waiting) == 1)
        assert served.attribute(**ask("known")).status_code == 200
        gate.open.set()
        for thread in threads:
            thread.join()
        assert answers[0].content == answers[1].content, "seconds and all: the same run"


@pytest.mark.slow
def test_memory_stays_where_it_is(capsys):
    """Some hundred questions, all different, with errors among them: the process does not grow but by its cache."""
    lm = small()
    with serving(lambda: lm) as served, served.client() as client:

        def some(start, count):
            for n in range(start, start + count):
                client.post("/api/attribute", json=ask(f"question {n}", "input_x_gradient"))
                client.post("/api/explain", json=ask(f"question {n}", curves=True))
                client.post("/api/attribute", json=ask(f"question {n}" * 20))
            gc.collect()
            return psutil.Process().memory_info().rss

        some(0, 50)
        before, kept = some(50, 50), served.session.queue.cache.size
        after, more = some(100, 100), served.session.queue.cache.size - kept
    with capsys.disabled():
        print(
            f"\n300 requests after 300 others: {(after - before) / 2**20:+.1f} MiB resident, of which {more / 2**20:.1f} MiB answers kept"
        )
    assert after - before < more + 16 * 2**20


def test_one_request_s_fault_is_no_other_s(monkeypatch):
    """In the same line, between two good ones. Mutant: `_execute` lets exceptions through, and the thread dies."""

    def breaks(lm, clean, objective):
        raise RuntimeError("broken in the middle")

    monkeypatch.setitem(METHODS, "recency", Method(name="recency", source="", family="", function=breaks))
    with serving() as served:
        good, bad, again = (served.attribute(**ask("abc", method)) for method in ("uniform", "recency", "occlusion"))
        assert (good.status_code, again.status_code) == (200, 200)
        assert bad.status_code == 500 and "broken" not in bad.text


def test_a_model_that_is_being_read():
    """The server answers meanwhile, and says so; then it is ready, and its first example is known already."""
    going = threading.Event()

    def slowly():
        assert going.wait(20)
        return small()

    with serving(slowly, ready=False, warm=True) as served, served.client() as client:
        about = client.get("/api/about").json()
        assert (about["status"], about["model"]) == ("loading", None) and about["methods"] and about["examples"]
        for path in ("/api/attribute", "/api/explain"):
            answer = served.post(path, ask("abc"))
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        going.set()
        until(lambda: client.get("/api/about").json()["status"] == "ready")
        until(lambda: served.session.queue.cache.size > 0)
        first = {name: value for name, value in about["examples"][0].items() if name != "title"}
        (event,) = served.events(**first, methods=about["default_methods"])
        assert event["cached"]


def test_the_warm_up_makes_way():
    """Mutant: `submit` does not cancel a running job that gives way."""
    lm = small(token_budget=8)
    gate = Gate(lm)
    gate.open.clear()
    with serving(lambda: lm, warm=True) as served:
        until(lambda: gate.passes)
        with streaming(served, ask("me first")) as client:
            heard(client, b'"queued"')
            gate.open.set()
            heard(client, b'"result"')
        first = {name: value for name, value in EXAMPLES[0].items() if name != "title"}
        request = served.session.parse_request(json.dumps({**first, "methods": list(DEFAULT_METHODS)}).encode(), streamed=True)
        assert served.session.queue.cache.get(served.session.cache_key(request, streamed=True)) is None, (
            "the warm-up did not come to its end"
        )


def test_a_model_that_cannot_be_read():
    def fails():
        raise ModelError("there is no folder /nowhere")

    with serving(fails, ready=False) as served, served.client() as client:
        until(lambda: served.session.queue.status == "failed")
        assert "/nowhere" in client.get("/api/about").json()["message"]
        answer = served.attribute(**ask("abc"))
        assert answer.status_code == 503 and "retry-after" not in answer.headers and "/nowhere" in answer.json()["error"]["message"]


def test_a_warm_up_that_is_refused_leaves_the_model_there():
    """The first example is longer than such a server takes. Mutant: `after_load` inside the try that opens the model."""
    with serving(small, limits=Limits(max_tokens=2), warm=True) as served:
        assert served.attribute(**ask("ab")).status_code == 200
        assert served.session.queue.status == "ready"


def test_a_queue_that_closes_lets_everybody_go():
    lm = small(token_budget=8)
    gate = Gate(lm)
    with serving(lambda: lm) as served:
        gate.open.clear()
        with streaming(served, ask("first", "noiser")) as first, streaming(served, ask("second")) as second:
            heard(second, b'"ahead": 1')
            served.session.queue.close()
            heard(second, b'"Stopped"')
            gate.open.set()
            heard(first, b'"Stopped"')
        assert served.session.queue.join(5.0)
        assert served.attribute(**ask("too late")).status_code == 503
    with pytest.raises(HttpError):
        JobQueue(1, AnswerCache(10)).submit("key", lambda job: b"", lambda job: None)


def test_the_cache_is_bounded_and_forgets_the_oldest():
    """Mutant: no `move_to_end`."""
    cache = AnswerCache(30)
    cache.put("a", b"x" * 9)
    cache.put("b", b"x" * 9)
    cache.put("c", b"x" * 9)
    assert cache.size == 30 and cache.get("a") == b"x" * 9
    cache.put("d", b"x" * 9)
    assert cache.get("b") is None and cache.get("a") and cache.get("d") and cache.size == 30
    cache.put("e", b"x" * 40)
    assert cache.get("e") is None and cache.size == 30
    cache.put("a", b"")
    assert cache.size == 21


def test_time_left_is_learned_and_not_made_up():
    """Mutant: a power of 1 where one length was seen."""
    learned = CostEstimates()
    assert learned.estimate("noiser", 10, 1) is None
    learned.observe("noiser", 10, 2, 4.0, 2000)
    found = learned.estimate("noiser", 20, 1)
    assert found is not None and found.seconds == pytest.approx(8.0) and found.forward_tokens == pytest.approx(4000)
    assert learned.estimate("noiser", 31, 1) is None and learned.estimate("lime", 10, 1) is None
    learned.observe("noiser", 20, 1, 4.0, 2000)
    found = learned.estimate("noiser", 40, 3)
    assert found is not None and found.forward_tokens == pytest.approx(12_000), "twice the length took twice the tokens"


def test_time_left_is_said_once_it_is_known():
    """Of an equal question with another seed: a number from the beginning, that falls to the end."""
    lm = small(token_budget=64)
    lm.model.register_forward_pre_hook(lambda *_: time.sleep(0.02))
    with serving(lambda: lm) as served:
        options = {"samples": 60}
        first = served.events(prompt="how long will it be", method="lime", options={**options, "seed": 0}, curves=False)
        again = served.events(prompt="how long was it then", method="lime", options=options, curves=False, target="a")
        said = [event["seconds_left"] for event in again if event["event"] == "progress"]
        assert first[-1]["event"] == again[-1]["event"] == "result"
        assert said and said[0] is not None and said[-1] < said[0] + 0.5
        assert all(event["forward_tokens"] >= 0 for event in again if event["event"] == "progress")
