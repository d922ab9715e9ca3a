"""A judge's key: from the environment, to one server, and shown nowhere.

The effect without our code: a server that sends back what it was sent has the key in the client's exception and, at level DEBUG, in
its logs (`test_without_redaction...`). Mutants caught: OPENAI_API_KEY read for any url; a redactor of the raw key only, or of base64
at one alignment only; an error's body not redacted; the model id not redacted; no filter on the client's loggers; the client's own
headers left in the request.
"""

import base64
import io
import json
import logging
import subprocess
import sys
import traceback
from urllib.parse import quote

import pytest

from noiser.errors import JudgeError, OptionError, RunError
from noiser.http.keys import Redactor
from noiser.judges.api import ApiBackend
from noiser.judges.backend import Call, Completion
from noiser.judges.keys import OPENAI, judge_key, judge_url
from tests.fault_server import Fault, FaultServer, completion, refusal, said

SENTINEL = "sk-sentinel/7Qm+Zx0=%~Vb93"
OTHERS = {
    "OPENAI_API_KEY": "sk-not-for-others",
    "OPENAI_ADMIN_KEY": "sk-admin-not-for-others",
    "OPENAI_ORG_ID": "org-not-for-others",
    "OPENAI_PROJECT_ID": "project-not-for-others",
    "OPENAI_CUSTOM_HEADERS": "X-Secret: header-not-for-others\nAuthorization: Bearer custom-not-for-others",
}
CALL = Call(({"role": "user", "content": "go"},), None, 8)


def forms(key):
    """Every way in which the key may show itself: base64 at each alignment, without the characters that depend on its neighbours."""
    yield from (key, key.upper(), quote(key), quote(key, safe=""), quote(key, safe="").lower(), "".join(f"%{ord(c):02X}" for c in key))
    yield json.dumps(key)[1:-1].replace("/", "\\u002f")
    for around in (f"{key}", f"Bearer {key}", f"{key}:", f"x{key}", f"xx{key}", f"user:{key}"):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(around.encode()).decode()


def leaks(text):
    """Pieces of the key or of its codings in a text."""
    coded = [base64.b64encode((before + SENTINEL).encode()).decode()[4:-4] for before in ("", "x", "xx")]
    pieces = [SENTINEL, quote(SENTINEL, safe=""), SENTINEL[12:], SENTINEL[:12], *coded]
    return [piece for piece in pieces if piece.casefold() in text.casefold()]


@pytest.fixture
def environment(monkeypatch):
    for name in ("NOISER_JUDGE_KEY", "OPENAI_BASE_URL", *OTHERS):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_openais_key_goes_to_no_other_server(environment):
    environment.setenv("OPENAI_API_KEY", "sk-openai")
    assert judge_key(None) == "sk-openai"
    assert judge_key("http://127.0.0.1:1/v1") is None
    environment.setenv("NOISER_JUDGE_KEY", " sk-judge\n")
    assert judge_key(None) == judge_key("http://127.0.0.1:1/v1") == "sk-judge"


def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(environment):
    environment.setenv("NOISER_JUDGE_KEY", "sk-one sk-two")
    with pytest.raises(OptionError, match="NOISER_JUDGE_KEY holds a space") as caught:
        judge_key(None)
    assert "sk-" not in str(caught.value)


def test_where_to_ask(environment):
    assert judge_url(None) == OPENAI
    environment.setenv("OPENAI_BASE_URL", "https://gateway.example/v1/")
    assert judge_url(None) == "https://gateway.example/v1"
    assert judge_url("http://[::1]:8000/v1/") == "http://[::1]:8000/v1"


@pytest.mark.parametrize(
    "url",
    [
        *("", "host:8000/v1", "ftp://host/v1", "http://", "http://host:port/v1", "http://host:0/v1", "http://ho st/v1", "http://host/v1\n"),
        *("https://user:hunter2@host/v1", "https://host/v1?key=hunter2", "https://host/v1#hunter2", "https://host/v1?"),
    ],
)
def test_what_is_more_or_less_than_an_address_is_refused_and_not_shown(environment, url):
    with pytest.raises(OptionError, match="--judge-url") as caught:
        judge_url(url)
    assert "hunter2" not in str(caught.value)


def test_the_key_is_redacted_in_every_form():
    redact = Redactor(SENTINEL)
    for form in forms(SENTINEL):
        for text in (form, f"Authorization: {form}, ", f"a{form}b"):
            assert "[key]" in redact(text), form
            assert not leaks(redact(text)), form
    assert redact("nothing of it") == "nothing of it"
    assert Redactor(None)(SENTINEL) == SENTINEL


def test_what_stands_for_no_key_is_no_secret():
    """Local servers are given EMPTY or none as their key: a reply that says so is an answer."""
    assert Redactor("none")("none") == "none"


def echo(request):
    """The key, in all that a server can send: body, reply, model id, headers; each in turn."""
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    coded = base64.b64encode(f"Bearer {key}".encode()).decode()
    all_of_it = f"you sent {key} {quote(key, safe='')} {coded}"
    headers = {"X-You-Sent": all_of_it, "Retry-After": "0"}
    answers = [
        refusal(500, all_of_it),
        Fault("page", 200, f"<html>{all_of_it}</html>", headers),
        Fault("429", 429, json.dumps({"error": {"message": all_of_it, "code": key, "type": all_of_it}}), headers),
        Fault("answered", 200, completion(all_of_it, model=f"model-{key}", finish=key), headers),
        Fault("answered", 200, completion(None, model=f"model-{key}", refusal=all_of_it), headers),
        said(all_of_it, model=coded),
    ]
    return answers[request.number % len(answers)] if request.last == "go" else None


@pytest.fixture
def log():
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)


def shown(error):
    return "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(vars(error)) + repr(error.args)


def backend_at(server, **how):
    settings = {"total_timeout": 5.0, "timeout": 2.0, "first_wait": 0.01, "max_wait": 0.02, "key": judge_key(server.url), **how}
    return ApiBackend("openai:fake", "fake", url=server.url, identity={"judge": "openai:fake"}, **settings)


def test_a_server_that_sends_the_key_back_does_not_get_it_shown(environment, log):
    environment.setenv("NOISER_JUDGE_KEY", SENTINEL)
    outcomes = []
    with FaultServer(plan=echo) as server:
        backend = backend_at(server)
        for _ in range(2):
            backend.complete([CALL] * 20, lambda place, outcome: outcomes.append(outcome))
        sent = {request.headers.get("authorization") for request in server.requests}
        everything = [
            repr(outcomes),
            repr(backend),
            repr(vars(backend)),
            repr(backend.model),
            repr(backend.counts),
            repr(backend.capabilities),
        ]
        assert sent == {f"Bearer {SENTINEL}"}
        assert {outcome.finish for outcome in outcomes} == {"[key]", "refusal", "stop"}
        server.plan = lambda request: echo_status(request, 400)
        backend.complete([CALL], lambda place, outcome: outcomes.append(outcome))
        server.plan = lambda request: echo_status(request, 403)
        with pytest.raises(RunError) as caught:
            backend.complete([CALL], lambda place, outcome: outcomes.append(outcome))
        fresh = backend_at(server)
        server.plan = lambda request: echo_status(request, 422)
        with pytest.raises(RunError) as other:
            fresh.check()
        backend.close()
        fresh.close()
    assert isinstance(outcomes[-1], JudgeError)
    for text in (*everything, shown(caught.value), shown(other.value), shown(outcomes[-1]), log.getvalue()):
        assert not leaks(text)
    assert "[key]" in str(caught.value)
    assert "[key]" in log.getvalue()


def echo_status(request, status):
    return refusal(status, f"you sent {request.headers['authorization']}", code=request.headers["authorization"])


def test_without_redaction_the_clients_exceptions_and_logs_show_it(log):
    import openai

    with FaultServer(plan=echo) as server, openai.OpenAI(api_key=SENTINEL, base_url=server.url, max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "go"}])
        client.chat.completions.with_raw_response.create(model="fake", messages=[{"role": "user", "content": "go"}])
    assert leaks(shown(caught.value))
    assert leaks(log.getvalue())


def test_a_closed_backend_leaves_the_clients_logs_as_it_found_them(environment):
    environment.setenv("NOISER_JUDGE_KEY", SENTINEL)
    with FaultServer() as server:
        logger = logging.getLogger("openai._base_client")
        before = list(logger.filters)
        backend = backend_at(server)
        backend.check()
        assert logger.filters != before
        backend.close()
        assert logger.filters == before
        backend_at(server).check()  # and so does one that is forgotten
        assert logger.filters == before


def test_nothing_of_the_environment_goes_to_a_server_of_ones_own(environment):
    """The client reads keys, names and whole headers from the environment, and would send them to any server."""
    for name, value in OTHERS.items():
        environment.setenv(name, value)
    heard: list[Completion | JudgeError] = []
    with FaultServer() as server:
        backend_at(server).complete([CALL], lambda place, outcome: heard.append(outcome))
        headers = [request.headers for request in server.requests]
    assert isinstance(heard[0], Completion)
    assert "not-for-others" not in repr(headers)
    assert {name for each in headers for name in each} <= {
        "host",
        "accept",
        "connection",
        "user-agent",
        "content-type",
        "content-length",
        "x-stainless-raw-response",
    }


def test_a_server_that_has_moved_is_not_followed(environment):
    environment.setenv("NOISER_JUDGE_KEY", SENTINEL)
    with FaultServer() as other, FaultServer() as server:
        server.plan = lambda request: Fault("moved", 308, "", {"Location": f"{other.url}/chat/completions"})
        with pytest.raises(RunError, match="has moved: give --judge-url the new address"):
            backend_at(server).check()
        assert not other.requests


def test_a_backend_that_is_not_asked_needs_no_client():
    code = """
import sys
from noiser.judges.api import ApiBackend
ApiBackend("a", "a", url="http://host/v1", key=None, identity={})
print("openai" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
