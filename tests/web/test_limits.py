"""No request can block the others: options are limited by what they cost, jobs by time, and a client that left costs nothing more."""

import json
import socket
import time

import numpy as np
import psutil
import pytest

import noiser
from noiser.errors import Stopped, cancellable, checkpoint
from noiser.methods import METHODS
from noiser.methods.integrated_gradients import gauss_legendre
from noiser.registry import Method
from noiser.results.scores import spearman
from noiser.web.requests import Limits
from tests.web_server import head, serving, small, until


class Countdown:
    """A check that cancels at its call number `calls`."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self):
        self.left -= 1
        if self.left <= 0:
            raise Stopped


def test_many_quadrature_nodes_are_cheap_and_right():
    """10,000 nodes took 154 s and 1.5 GB. Mutants: `leggauss` for any number; one Newton step; a derivative with `x` for `-x`."""
    before, begin = psutil.Process().memory_info().rss, time.process_time()
    points, weights = gauss_legendre(10_000)
    assert time.process_time() - begin < 20 and psutil.Process().memory_info().rss - before < 100 * 2**20
    assert (np.diff(points) > 0).all() and 0 < points[0] < 1e-7 and points[-1] < 1
    assert sum(weights) == pytest.approx(1, abs=1e-12) and min(weights) > 0
    for power in (1, 7, 100, 5000):
        assert np.dot(weights, points**power) == pytest.approx(1 / (power + 1), rel=1e-9)


@pytest.mark.parametrize("steps", [257, 300, 501])
def test_cheap_nodes_are_numpys(steps):
    """Mutant: the weights without `(1 - x**2)`."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    ours = gauss_legendre(steps)
    np.testing.assert_allclose(ours[0], (points + 1) / 2, rtol=0, atol=1e-14)
    np.testing.assert_allclose(ours[1], weights / 2, rtol=1e-8)


def test_few_nodes_stay_as_they_were():
    """To the last bit: numbers that were computed before stay. Mutant: `steps <= 256` reads `steps < 4`."""
    points, weights = np.polynomial.legendre.leggauss(50)
    assert (gauss_legendre(50)[0] == (points + 1) / 2).all() and gauss_legendre(50)[1] == tuple((weights / 2).tolist())


@pytest.mark.parametrize(
    "work",
    [
        lambda: gauss_legendre(9_999),
        lambda: [spearman(np.eye(2, 9), np.eye(2, 9), [9, 9]) for _ in range(100)],
        lambda: noiser.attribute(small(), "abcdef", "noiser", samples=2),
    ],
)
def test_long_work_is_cancelled_between_its_steps(work):
    """Quadrature, agreements, and what methods do between two calls of the model. Mutant: `checkpoint()` left out of `resume`."""
    with pytest.raises(Stopped), cancellable(Countdown(2)):
        for _ in range(2):
            work()
    work()


def test_a_checkpoint_does_nothing_by_itself():
    """And `cancellable` ends with its block. Mutant: `_check.reset` left out."""
    checkpoint()
    with cancellable(Countdown(5)):
        checkpoint()
    for _ in range(10):
        checkpoint()


def test_a_client_that_leaves_ten_thousand_steps_costs_nothing_more(capsys):
    """The attack of the audit: the next client waited for 154 s. Mutant: no `checkpoint` in the loop over Legendre polynomials."""
    body = json.dumps({"prompt": "abcdef", "method": "integrated_gradients", "options": {"steps": 9_998}}).encode()
    with serving() as served:
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(head(served, "/api/attribute", len(body)) + body)
            until(lambda: served.session.queue._running)
            time.sleep(0.5)
        begin = time.perf_counter()
        assert served.attribute(prompt="the next", method="uniform").status_code == 200
        waited = time.perf_counter() - begin
    assert waited < 5
    with capsys.disabled():
        print(f"\n10,000 steps: the next client had its answer {1000 * waited:.0f} ms after the one before it left")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lime", {"samples": 1_000_000}),
        ("noiser", {"samples": 10_000}),
        ("integrated_gradients", {"steps": 10_000}),
        ("sequential_integrated_gradients", {"steps": 10_000}),
        ("gradient_shap", {"samples": 10_000}),
    ],
)
def test_every_option_that_multiplies_rows_is_limited(method, options):
    """Mutant: only `samples` is looked at."""
    with serving(limits=Limits(max_draws=50_000)) as served:
        answer = served.attribute(prompt="six by", method=method, options=options)
        assert answer.status_code == 422, answer.text[:300]
        (name,) = options
        assert f"at most 8,333 {name}" in answer.json()["error"]["message"]
        assert served.attribute(prompt="six by", method=method, options={name: 4}).status_code == 200


@pytest.mark.parametrize("path", ["/api/attribute", "/api/explain"])
def test_a_job_has_a_time_limit(path, monkeypatch):
    """It ends with a message that names the limit, and the next job begins. Mutant: `check` does not look at the clock."""

    def endless(lm, clean, objective):
        while True:
            checkpoint()
            time.sleep(0.01)
        yield

    monkeypatch.setitem(METHODS, "recency", Method(name="recency", source="", family="", function=endless))
    with serving(limits=Limits(time_limit=1)) as served:
        begin = time.perf_counter()
        answer = served.post(path, {"prompt": "abc", "methods": ["recency"]})
        assert 0.9 < time.perf_counter() - begin < 10
        error = answer.json()["error"] if path == "/api/attribute" else json.loads(answer.text.splitlines()[-1])
        assert answer.status_code == (504 if path == "/api/attribute" else 200)
        assert error["class"] == "TimeLimitError" and "1 s" in error["message"] and "--time-limit" in error["message"]
        assert served.attribute(prompt="abc", method="uniform").status_code == 200


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_two_lengths_are_refused(method):
    """Servers disagree about where such a body ends (request smuggling). Mutant: `_check_framing` returns at once."""
    with serving() as served:
        body = json.dumps({"prompt": "abc", "method": "uniform"}).encode()
        chunked = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        lines = [f"{method} /api/attribute HTTP/1.1", f"Host: localhost:{served.port}", "Content-Type: application/json"]
        for headers in (
            ["Content-Length: 5", "Transfer-Encoding: chunked"],
            ["Transfer-Encoding: chunked", f"Content-Length: {len(chunked)}"],
        ):
            with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
                connection.sendall("\r\n".join([*lines, *headers, "", ""]).encode() + chunked)
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
            assert answer.startswith(b"HTTP/1.1 400") and b"Content-Length and Transfer-Encoding" in answer
            assert answer.count(b"HTTP/1.1") == 1, "the connection is closed, nothing behind the body is read as a request"
