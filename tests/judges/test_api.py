"""A judge behind an API that fails in every way: each call is accounted for, and what it says in the end is what it would have said.

The effect without our code: of 500 questions some 240 get no answer at the first try (`test_every_call...` prints the figure). Mutants
caught: a failure not counted; 429 not retried; Retry-After not read, or waited for beyond the budget; one worker too many; a reply
without choices taken for an empty one; the count of given-up questions not set back by an answer; response_format believed to work
because it was not refused; `heard` called after complete has ended; threads that are waited for on Ctrl-C.
"""

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from noiser.errors import JudgeError, RunError
from noiser.http.retry import RetryPolicy, parse_retry_after
from noiser.judges.api import ApiBackend
from noiser.judges.backend import Backend, Call, Completion
from tests.fault_server import Fault, FaultServer, completion, hang, page, refusal, reset, said, script, seeded

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def ask(what, schema=None):
    return Call(({"role": "system", "content": "be short"}, {"role": "user", "content": what}), schema, 16)


def reply(body):
    return f"to {body['messages'][-1]['content']}"


def backend_at(server, **how):
    settings = {"total_timeout": 60.0, "timeout": 5.0, "first_wait": 0.02, "max_wait": 0.1, "key": None, "trust_env": False, **how}
    return ApiBackend("openai:fake", "fake", url=server.url, identity={"judge": "openai:fake"}, **settings)


def heard_from(backend, calls):
    """What is heard, by place; a second outcome for one place, or two at a time, is a mistake."""
    heard, one = {}, threading.Lock()

    def hear(place, outcome):
        assert one.acquire(blocking=False), "two at a time"
        assert place not in heard, "heard twice"
        time.sleep(0.0005)
        heard[place] = outcome
        one.release()

    backend.complete(calls, hear)
    return [heard.get(place) for place in range(len(calls))]


def failures(backend):
    """All counts that stand for a call that was not answered."""
    return sum(number for kind, number in backend.counts.items() if kind not in ("calls", "failed"))


def test_every_call_is_accounted_for_and_the_result_is_that_without_faults():
    """30 % 429, half of them with Retry-After; 10 % 500, 5 % hangs, 5 % resets, drawn anew for each attempt."""
    calls = [ask(f"question {number}") for number in range(500)]
    faults = [
        (0.15, lambda: refusal(429, retry_after="0.05")),
        (0.15, lambda: refusal(429)),
        (0.10, lambda: refusal(500)),
        (0.05, hang),
        (0.05, reset),
    ]
    with FaultServer(reply) as server:
        wanted = heard_from(backend_at(server, max_connections=32), calls)
    with FaultServer(reply, seeded(6, faults)) as server:
        backend, begun = backend_at(server, max_connections=32, timeout=1.5), time.monotonic()
        found = heard_from(backend, calls)
        took = time.monotonic() - begun
    print(f"{len(calls)} questions, {backend.counts['calls']} calls, {dict(backend.counts)}, {took:.1f} s, {server.most} at once")
    assert found == wanted
    assert all(isinstance(each, Completion) for each in found)
    sent_again = [messages for messages, times in Counter(server.answered).items() if times > 1]
    assert not sent_again
    log = {"429": "429", "500": "500", "hang": "timeout", "reset": "connection"}
    assert {log[kind]: number for kind, number in server.log.items() if kind in log} == {
        kind: number for kind, number in backend.counts.items() if kind != "calls"
    }
    assert backend.counts["calls"] == sum(server.log.values()) == len(server.requests) == 501 + failures(backend)
    assert failures(backend) > 300


def test_it_is_a_backend():
    with FaultServer() as server:
        assert isinstance(backend_at(server), Backend)


def test_no_more_calls_are_under_way_than_allowed():
    with FaultServer(reply, delay=0.03) as server:
        backend = backend_at(server, max_connections=5)
        assert backend.structured
        heard_from(backend, [ask(str(number)) for number in range(40)])
    assert server.most == 5


def test_an_answer_is_heard_as_soon_as_it_is_there():
    moments = []
    with FaultServer(reply, delay=0.1) as server:
        backend_at(server, max_connections=1).complete([ask("a"), ask("b"), ask("c")], lambda place, said: moments.append(time.monotonic()))
    assert moments[-1] - moments[0] > 0.15


def test_what_is_said_and_what_goes_out():
    thought = said("[1]", model="fake-7", finish="length", reasoning_content="hmm")
    with FaultServer(
        plan=script(None, thought, said("no", finish="content_filter"), said(None, refusal="I will not"), said(None))
    ) as server:
        backend = backend_at(server, max_connections=1, key="sk-test-1234")
        assert backend.model is None
        found = heard_from(backend, [ask("a", SCHEMA), ask("b"), ask("c"), ask("d")])
        sent = [request.body for request in server.requests[1:]]
    assert found == [
        Completion("[1]", "length", "fake-7"),
        Completion("no", "refusal", "fake-1"),
        Completion("I will not", "refusal", "fake-1"),
        Completion("", "stop", "fake-1"),
    ]
    assert backend.model == "fake-1"
    for body, call in zip(sent, [ask("a", SCHEMA), ask("b"), ask("c"), ask("d")], strict=True):
        assert body == {"model": "fake", "messages": list(call.messages), **backend.parameters(call)}
    assert backend.parameters(ask("b")) == {"temperature": 0, "max_tokens": 16}
    schema = {"name": "answer", "strict": True, "schema": SCHEMA}
    assert backend.parameters(ask("a", SCHEMA))["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer sk-test-1234"}


@pytest.mark.parametrize("header", ["seconds", "milliseconds", "date"])
def test_retry_after_is_waited_for(header):
    def plan(request):
        if request.last != "a" or request.attempt:
            return None
        then = datetime.now(UTC) + timedelta(seconds=2)  # a date has no parts of a second
        said = {
            "seconds": ("Retry-After", "0.5"),
            "milliseconds": ("retry-after-ms", "500"),
            "date": ("Retry-After", format_datetime(then, usegmt=True)),
        }
        return Fault("503", 503, "", dict([said[header]]))

    with FaultServer(reply, plan) as server:
        assert isinstance(heard_from(backend_at(server), [ask("a")])[0], Completion)
        first, second = (request.at for request in server.requests if request.last == "a")
    assert 0.5 <= second - first < 2.6


def test_what_retry_after_says():
    assert parse_retry_after({}) is None
    assert parse_retry_after({"retry-after": "7"}) == 7.0
    assert parse_retry_after({"retry-after": "soon"}) is None
    assert parse_retry_after({"retry-after": "nan"}) is None
    assert parse_retry_after({"retry-after": "-3"}) == 0.0
    assert parse_retry_after({"retry-after": "9", "retry-after-ms": "20"}) == 0.02
    assert parse_retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert 3598 < (parse_retry_after({"retry-after": format_datetime(datetime.now(UTC) + timedelta(hours=1))}) or 0) <= 3600


def test_a_retry_after_beyond_the_budget_ends_the_question_at_once():
    with FaultServer(reply, lambda request: refusal(429, retry_after="90") if request.last == "a" else None) as server:
        backend, begun = backend_at(server, total_timeout=20.0), time.monotonic()
        found = heard_from(backend, [ask("a"), ask("b")])
    assert time.monotonic() - begun < 5
    assert isinstance(found[0], JudgeError)
    assert "it asks for a wait of 90 s" in str(found[0])
    assert "of the 20 s that a question may take" in str(found[0])
    assert found[1] == Completion("to b", "stop", "fake-1")
    assert backend.counts == {"calls": 3, "429": 1, "failed": 1}


def test_waits_double_up_to_the_cap_and_are_never_the_same():
    policy = RetryPolicy(1.0, 100.0, first_wait=1.0, max_wait=8.0)
    for failed, most in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (5000, 8)]:
        waits = {policy.wait(failed, None) for _ in range(50)}
        assert len(waits) > 40
        assert most / 2 <= min(waits) <= max(waits) <= most
    assert 5 < policy.wait(9, 5.0) <= 6


def test_waiting_leaves_the_callers_random_state_alone():
    before = random.getstate()
    RetryPolicy(1.0, 1.0).wait(3, None)
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (page(), "malformed"),
        (Fault("x", body='{"choices": []}'), "malformed"),
        (Fault("x", body='{"error": {"message": "overloaded"}}'), "malformed"),
        (Fault("x", body=completion("yes", "fake-1")[:-9]), "malformed"),
        (Fault("x", body=completion("yes", "fake-1"), cut=9), "connection"),
        (Fault("x", body=completion(None, "fake-1").replace("null", "17", 1)), "malformed"),
        (Fault("x", body="[" * 100_000), "malformed"),
        (Fault("x", body=b"\xff\xfe"), "malformed"),
        (Fault("x", body=""), "malformed"),
        (Fault("x", body="null"), "malformed"),
        (Fault("x", body=completion("yes", "fake-1"), drip=0.1), "timeout"),
        (Fault("x", 503, body="slow " * 20, drip=0.1), "timeout"),
        (Fault("x", body=completion("y" * (5 << 20), "fake-1")), "malformed"),
        (page(502), "502"),
        (refusal(408), "408"),
        (refusal(409), "409"),
        (hang(), "timeout"),
        (reset(), "connection"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_no_completion_is_asked_for_again(fault, kind):
    plan = lambda request: fault if request.last == "a" and not request.attempt else None  # noqa: E731
    with FaultServer(reply, plan) as server:
        backend = backend_at(server, timeout=0.8)
        assert heard_from(backend, [ask("a")]) == [Completion("to a", "stop", "fake-1")]
    assert backend.counts == {"calls": 3, kind: 1}


def test_what_stays_wrong_is_given_up_when_the_budget_is_spent():
    with FaultServer(reply, lambda request: page() if request.last == "a" else None) as server:
        backend = backend_at(server, total_timeout=0.5)
        found = heard_from(backend, [ask("a"), ask("b")])
    assert isinstance(found[0], JudgeError)
    assert "openai:fake gave no reply: the reply is no chat completion: <html>" in str(found[0])
    assert isinstance(found[1], Completion)
    assert backend.counts["failed"] == 1
    assert backend.counts["calls"] == 2 + backend.counts["malformed"] == 2 + failures(backend)


@pytest.mark.parametrize(
    ("fault", "key", "message"),
    [
        (
            refusal(401, "Incorrect API key"),
            "sk-test-1234",
            "it answered 401: Incorrect API key; it does not accept the key.* set NOISER_JUDGE_KEY to",
        ),
        (refusal(401, "no"), None, "it wants a key: set NOISER_JUDGE_KEY"),
        (refusal(403), "sk-test-1234", "set NOISER_JUDGE_KEY"),
        (refusal(402), None, "the account has no credit left"),
        (refusal(429, "You exceeded your quota", code="insufficient_quota"), "sk-test-1234", "the account has no credit left"),
        (refusal(404, "no such model"), None, r"knows no model 'fake', or http://127.0.0.1:\d+/v1/chat/completions does not exist"),
        (refusal(400, "bad"), None, "it answered 400: bad"),
        (refusal(422, "bad"), None, "it answered 422: bad"),
    ],
)
def test_where_every_call_would_fail_it_ends_at_once_and_says_what_to_do(fault, key, message):
    with FaultServer(plan=lambda request: fault) as server:
        backend, begun = backend_at(server, key=key), time.monotonic()
        with pytest.raises(RunError, match=message) as caught:
            backend.complete([ask("a")], lambda place, outcome: None)
        with pytest.raises(RunError, match=message):
            backend.check()
        assert len(server.requests) <= 4
    assert time.monotonic() - begun < 3
    assert caught.value.__cause__ is None is caught.value.__context__


def test_a_key_that_is_withdrawn_in_the_middle_ends_it_and_what_was_answered_was_heard():
    calls = [ask(str(number)) for number in range(100)]
    heard = {}

    def plan(request):
        if request.number > 50:
            return refusal(401)
        return time.sleep(0.03)  # so that answers to others are still on their way

    with FaultServer(reply, plan) as server:
        backend = backend_at(server, max_connections=4)
        with pytest.raises(RunError, match=r"cannot be asked any more.*NOISER_JUDGE_KEY.*the same command goes on from there"):
            backend.complete(calls, heard.__setitem__)
        there = dict(heard)
        time.sleep(0.2)
        assert heard == there, "something was heard after the end"
    assert 46 <= len(heard) <= 50
    assert all(isinstance(each, Completion) for each in heard.values())
    assert len(server.requests) < 60


def test_a_question_that_alone_is_refused_fails_alone():
    with FaultServer(reply, lambda request: refusal(400, "too long") if request.last == "a" else None) as server:
        found = heard_from(backend_at(server), [ask("a"), ask("b")])
    assert isinstance(found[0], JudgeError)
    assert "it answered 400: too long" in str(found[0])
    assert isinstance(found[1], Completion)


def test_half_a_surrogate_pair_cannot_be_sent_and_fails_alone():
    with FaultServer(reply) as server:
        backend = backend_at(server)
        found = heard_from(backend, [ask("a\ud800"), ask("b")])
    assert isinstance(found[0], JudgeError)
    assert isinstance(found[1], Completion)
    assert backend.counts == {"calls": 2, "failed": 1}


@pytest.mark.parametrize(("connections", "lost"), [(2, 8), (12, 12)])
def test_many_given_up_in_a_row_end_it(connections, lost):
    calls = [ask(str(number)) for number in range(60)]
    heard = {}
    with FaultServer(reply, lambda request: refusal(400, "down") if request.number > 20 else None) as server:
        backend = backend_at(server, max_connections=connections)
        with pytest.raises(RunError, match=f"{lost} questions in a row were lost.*400: down.*the same command goes on from there"):
            backend.complete(calls, heard.__setitem__)
    kinds = Counter(type(each) for each in heard.values())
    assert kinds == {Completion: 20, JudgeError: kinds[JudgeError]}
    # Requests in flight: up to connections - 1 may have failed before the last success was counted, and as many fail after the end.
    assert lost <= kinds[JudgeError] <= lost + 2 * (connections - 1)
    assert backend.counts["failed"] == kinds[JudgeError]


def test_given_up_now_and_then_does_not_end_it():
    calls = [ask(str(number)) for number in range(60)]
    with FaultServer(reply, lambda request: refusal(400) if request.last.isdigit() and int(request.last) % 7 else None) as server:
        found = heard_from(backend_at(server, max_connections=1), calls)
    assert Counter(map(type, found)) == {JudgeError: 51, Completion: 9}


def test_nobody_there_is_said_soon(monkeypatch):
    import noiser.judges.api as api

    monkeypatch.setattr(api, "CONNECT_TIMEOUT", 0.5)
    with FaultServer() as server:
        pass
    backend, begun = backend_at(server), time.monotonic()
    with pytest.raises(RunError, match=r"openai:fake cannot be asked: no connection: .*refused"):
        backend.check()
    assert time.monotonic() - begun < 3
    assert backend.counts["calls"] == backend.counts["connection"] > 1


@pytest.mark.parametrize(("how", "structured", "calls"), [("yes", True, 1), ("refused", False, 2), ("ignored", False, 1)])
def test_structured_replies_are_tried_once_not_assumed(how, structured, calls):
    with FaultServer(reply, structured=how) as server:
        backend = backend_at(server)
        assert backend.capabilities == {}
        assert backend.structured is structured
        backend.check()
        assert backend.structured is structured
        assert backend.counts["calls"] == calls == len(server.requests)
        heard_from(backend, [ask("a", SCHEMA)])
        assert ("response_format" in server.requests[-1].body) is structured
    assert backend.capabilities == {"structured": structured, "tokens": "max_tokens", "temperature": True}


@pytest.mark.parametrize("answer", ['{"word": "hello"}', "{", '["quorvash"]', "[" * 100_000])
def test_a_schema_that_is_not_obeyed_is_not_supported(answer):
    with FaultServer(lambda body: answer, structured="ignored") as server:
        assert backend_at(server).structured is False


@pytest.mark.parametrize(
    ("refuses", "sent"),
    [
        (["max_tokens"], {"temperature": 0, "max_completion_tokens": 4096}),
        (["temperature"], {"max_tokens": 16}),
        (["max_tokens", "temperature"], {"max_completion_tokens": 4096}),
    ],
)
@pytest.mark.parametrize("structured", ["yes", "refused"])
def test_what_a_server_refuses_is_sent_to_it_no_more(refuses, sent, structured):
    with FaultServer(reply, refuses=refuses, structured=structured) as server:
        backend = backend_at(server)
        found = heard_from(backend, [ask("a"), ask("b")])
        assert all(isinstance(each, Completion) for each in found)
        assert backend.parameters(ask("a")) == sent
        assert {key: value for key, value in server.requests[-1].body.items() if key not in ("model", "messages")} == sent
        assert backend.structured is (structured == "yes")
        assert backend.counts == {"calls": len(server.requests), "400": server.log["400"]}
        asked = len(server.requests)
        again = backend_at(server)
        again.set_capabilities(backend.capabilities)
        assert again.structured is backend.structured
        heard_from(again, [ask("a")])
        assert len(server.requests) == asked + 1, "what is known was tried again"


def test_what_was_known_of_a_server_that_has_changed_is_tried_anew():
    with FaultServer(reply, refuses=["max_tokens"]) as server:
        backend = backend_at(server)
        backend.set_capabilities({"structured": True, "tokens": "max_tokens", "temperature": True})
        found = heard_from(backend, [ask(str(number)) for number in range(20)])
    assert all(isinstance(each, Completion) for each in found)
    assert backend.capabilities["tokens"] == "max_completion_tokens"
    backend.set_capabilities({})
    assert backend.capabilities == {}


def test_what_cannot_be_kept_ends_it():
    def full(place, outcome):
        raise RunError("disk full")

    with FaultServer(reply, delay=0.05) as server, pytest.raises(RunError, match="disk full"):
        backend_at(server).complete([ask(str(number)) for number in range(100)], full)
    assert len(server.requests) < 20


def test_an_interrupt_leaves_while_calls_hang_and_counts_them():
    heard = {}
    with FaultServer(reply, lambda request: hang() if request.last.startswith("h") else None) as server:
        backend = backend_at(server, max_connections=4, timeout=20.0)

        def interrupt():
            while len(heard) < 2 or len(server.requests) < 7:
                time.sleep(0.01)
            moments.append(time.monotonic())
            signal.raise_signal(signal.SIGINT)

        moments = []
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            backend.complete([ask(what) for what in ("a", "b", "h1", "h2", "h3", "h4", "c")], heard.__setitem__)
        assert time.monotonic() - moments[0] < 2
    assert set(heard) == {0, 1}
    assert backend.counts == {"calls": 7, "abandoned": 4}


def test_an_interrupt_while_waiting_for_the_next_try_leaves_too():
    with FaultServer(reply, lambda request: refusal(429, retry_after="2") if request.last == "a" else None) as server:
        backend = backend_at(server)
        backend.check()
        threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT)).start()
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            backend.complete([ask("a")], lambda place, outcome: None)
        assert time.monotonic() - begun < 1.5
        time.sleep(max(0.0, begun + 2.5 - time.monotonic()))
        assert len(server.requests) == 2, "it went on asking"


def test_a_process_ends_while_calls_hang():
    """No thread is waited for when the interpreter exits."""
    code = """
import sys, threading, time, signal
from noiser.judges.api import ApiBackend
from noiser.judges.backend import Call
from tests.fault_server import FaultServer, hang
server = FaultServer(plan=lambda request: hang(20) if request.number else None).__enter__()
backend = ApiBackend("a", "a", url=server.url, key=None, identity={}, trust_env=False)
backend.check()
threading.Timer(0.5, lambda: (print(time.time(), flush=True), signal.raise_signal(signal.SIGINT))).start()
try:
    backend.complete([Call(({"role": "user", "content": "a"},), None, 9)], lambda place, outcome: None)
except KeyboardInterrupt:
    sys.exit(130)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60, check=False
    )
    assert ended.returncode == 130, ended.stderr
    assert time.time() - float(ended.stdout) < 2.5
