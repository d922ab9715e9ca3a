"""Access and bounds: strangers, pages of other sites, clients that are slow or send too much."""

import json
import logging
import re
import socket
import time

import httpx
import pytest

from noiser.errors import OptionError
from noiser.web import middleware, server
from noiser.web.errors import HttpError
from noiser.web.middleware import Access, check_token, parse_allowed_host
from tests.web_server import JSON, head, serving, until

ASK = {"prompt": "abc", "method": "uniform"}
TOKEN = "a-token-of-our-own-0123456789"


@pytest.fixture(scope="module")
def served():
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def with_token():
    with serving(access=Access(frozenset({"box.example", "tunnel.example:9000"}), TOKEN)) as found:
        yield found


def raw(served, request, wait=5.0, then=None):
    """All that comes back on a connection of its own; ('', seconds) where it is closed without an answer."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=wait) as connection:
        begin = time.perf_counter()
        connection.sendall(request)
        got = b""
        try:
            while piece := connection.recv(65536):
                got += piece
                if then is not None and then in got:
                    break
        except ConnectionResetError:
            pass
        return got.decode("latin-1"), time.perf_counter() - begin


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST:{port}", 200),
        ("[::1]:{port}", 200),
        ("evil.example:{port}", 421),
        ("evil.example", 421),
        ("127.0.0.1", 421),
        ("localhost:1", 421),
        ("localhost:{port}.evil.example", 421),
        ("localhost.:{port}", 421),
        ("box.example", 421),
        ("", 421),
    ],
)
def test_only_our_own_names_are_answered_to(served, host, status):
    """DNS rebinding: a foreign name that leads here is sent as Host. Mutant: `host.lower() in`."""
    with served.client() as client:
        assert client.get("/", headers={"Host": host.format(port=served.port)}).status_code == status


@pytest.mark.parametrize("address", ["::ffff:192.0.2.7", "192.0.2.7", "fe80::1%eth0"])
def test_the_address_that_a_client_reached_is_our_own(address):
    """A socket for IPv6 gives IPv4 addresses in a form that no client writes. Mutant: the address as the socket gives it."""
    name = "[fe80::1]" if "%" in address else "192.0.2.7"
    scope = {"type": "http", "method": "GET", "path": "/", "server": (address, 7860)}
    Access().check(scope | {"headers": [(b"host", f"{name}:7860".encode())]})
    with pytest.raises(HttpError):
        Access().check(scope | {"headers": [(b"host", b"192.0.2.8:7860")]})


def test_two_hosts_or_none_are_refused(served):
    for lines in ("", "Host: localhost:{p}\r\nHost: evil.example\r\n"):
        answer, _ = raw(served, f"GET / HTTP/1.1\r\n{lines.format(p=served.port)}Connection: close\r\n\r\n".encode())
        assert re.match(r"HTTP/1.1 4(00|21)", answer)


@pytest.mark.parametrize(
    ("host", "status"), [("box.example", 200), ("box.example:{port}", 200), ("tunnel.example:9000", 200), ("tunnel.example", 421)]
)
def test_names_may_be_allowed(with_token, host, status):
    with with_token.client() as client:
        assert client.get("/", headers={"Host": host.format(port=with_token.port)}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://localhost:{port}"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_pages_of_other_origins_may_not_ask(served, headers, status):
    """Mutant: `foreign and (strict ...)`."""
    filled = {name: value.format(port=served.port) for name, value in headers.items()}
    assert served.post("/api/attribute", ASK, **filled).status_code == status
    with served.client() as client:
        assert client.get("/api/about", headers=filled).status_code == status


def test_a_link_from_elsewhere_opens_the_page(served):
    with served.client() as client:
        assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
        assert client.options("/api/attribute", headers={"Origin": "http://evil.example"}).status_code == 403
        assert client.options("/api/attribute").status_code == 405


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, 401),
        ("Bearer wrong-wrong-wrong-wrong", 401),
        (TOKEN, 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer " + TOKEN[:-1], 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
    ],
)
def test_the_token(with_token, value, status):
    """Mutant: `api and self.token is not None` reads `api and False`."""
    headers = {} if value is None else {"Authorization": value}
    answer = with_token.post("/api/attribute", ASK, **headers)
    assert answer.status_code == status and (status == 200) == ("www-authenticate" not in answer.headers)
    assert with_token.post("/api/explain", {**ASK, "method": None, "methods": ["uniform"]}, **headers).status_code == status
    with with_token.client() as client:
        assert client.get("/api/about", headers=headers).status_code == status
        assert client.get("/api/nothing", headers=headers).status_code == (401 if status == 401 else 404)
        assert client.get("/").status_code == 200, "the page itself holds no secret, and asks for the token"


def test_the_log_has_no_secrets(with_token, caplog):
    """Neither query strings, prompts nor tokens; and what is in a path cannot write lines of its own."""
    caplog.set_level(logging.WARNING, "httpx")
    caplog.set_level(logging.INFO)
    with with_token.client() as client:
        client.get("/nothing%0aforged%1b[31m?token=query-secret", headers={"Authorization": f"Bearer {TOKEN}"})
        client.post("/api/attribute", json={**ASK, "prompt": "prompt-secret"}, headers={"Authorization": f"Bearer {TOKEN}"})
    until(lambda: "POST /api/attribute" in caplog.text)
    assert re.search(r"GET /nothing\u23ceforged\\x1b\[31m 404 \d+ ms", caplog.text)
    assert re.search(r"POST /api/attribute 200 \d+ ms", caplog.text)
    assert not re.search(f"secret|{TOKEN}", caplog.text)
    assert TOKEN not in repr(Access(token=TOKEN))


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "/static/app.js", "/app.py", "//etc/passwd",
     "/..\\..\\x", "/%00", "/api/../api/about", "/template.html/../../x"],
)  # fmt: skip
def test_there_are_no_files_to_reach(served, path):
    answer, _ = raw(served, f"GET {path} HTTP/1.1\r\nHost: localhost:{served.port}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith("HTTP/1.1 404") and "root:" not in answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Encoding": "gzip"}, 415),
    ],
)
def test_a_body_says_that_it_is_json(served, headers, status):
    """A form on another site's page can be sent without asking, and cannot say so."""
    assert served.post("/api/attribute", ASK, **headers).status_code == status


@pytest.mark.parametrize("chunked", [False, True])
def test_a_megabyte_is_too_much(served, chunked):
    """With and without a length. Mutant: what is longer is joined up to MAX_DRAINED."""
    body = json.dumps({**ASK, "prompt": "a" * 2**20}).encode()
    with served.client() as client:
        answer = client.post("/api/attribute", content=iter([body]) if chunked else body, headers=JSON)
        assert answer.status_code == 413 and "bytes" in answer.json()["error"]["message"]
        assert client.post("/api/attribute", json=ASK).status_code == 200


def test_a_length_beyond_reason_is_not_read(served):
    answer, seconds = raw(served, head(served, "/api/attribute", 99999999999))
    assert answer.startswith("HTTP/1.1 413") and seconds < 5


def test_a_slow_body_is_given_up(served, monkeypatch):
    """Mutant: `asyncio.timeout(None)`."""
    monkeypatch.setattr(middleware, "BODY_TIMEOUT", 0.3)
    answer, seconds = raw(served, head(served, "/api/attribute", 50) + b"{")
    assert answer.startswith("HTTP/1.1 408") and 0.2 < seconds < 3


@pytest.mark.parametrize("before", ["", "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_slow_headers_are_given_up(served, monkeypatch, before):
    """On a new connection, and behind a request that was answered; a byte now and then does not help.

    Mutant: `elif False` in `_update_header_timer`.
    """
    monkeypatch.setattr(server, "HEADER_TIMEOUT", 0.5)
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(before.encode())
        if before:
            assert connection.recv(65536)
        begin = time.perf_counter()
        closed = False
        while not closed and time.perf_counter() - begin < 8:
            try:
                connection.sendall(b"G")
                connection.settimeout(0.05)
                closed = not connection.recv(65536)
            except TimeoutError:
                pass
            except OSError:
                closed = True
        assert closed and 0.3 < time.perf_counter() - begin < 5


def test_an_answer_that_is_not_taken_is_given_up(served, monkeypatch):
    """A client that asks and asks and reads nothing."""
    monkeypatch.setattr(server, "WRITE_TIMEOUT", 0.3)
    request = f"GET /template.html HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n".encode() * 100
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request)
        time.sleep(1.5)
        with pytest.raises(OSError):
            while connection.recv(2**20):
                connection.sendall(b"x")


def test_connections_are_bounded(served, monkeypatch):
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 5)
    held = [socket.create_connection(("127.0.0.1", served.port), timeout=5) for _ in range(5)]
    try:
        time.sleep(0.2)
        with pytest.raises(httpx.TransportError):
            served.attribute(**ASK)
    finally:
        for connection in held:
            connection.close()
    time.sleep(0.2)
    assert served.attribute(**ASK).status_code == 200


def test_headers_without_end_are_refused(served):
    answer, _ = raw(served, f"GET / HTTP/1.1\r\nHost: localhost:{served.port}\r\nX: ".encode() + b"a" * 100_000)
    assert answer == "" or answer.startswith(("HTTP/1.1 400", "HTTP/1.1 431"))


@pytest.mark.parametrize("name", ["", "a b", "http://x", "*", "a:1:2", "me@host"])
def test_names_that_are_none(name):
    with pytest.raises(OptionError):
        parse_allowed_host(name)


def test_names_and_tokens_as_they_are_given():
    for name, normal in (("Box.Example:80", "box.example:80"), ("::1", "[::1]"), ("[::1]:80", "[::1]:80")):
        assert parse_allowed_host(name) == normal
    for token in ("", "short", "with space in the middle", "ümläut-ümläut-ümläut"):
        with pytest.raises(OptionError):
            check_token(token)
    assert check_token(TOKEN) == TOKEN
