"""The real server of llama.cpp judges with the default model: in the form asked for, always the same, seen and reached by nobody else.

Mutants caught: more than one slot, or the slot's earlier prompt kept (`test_it_says_the_same...` fails where llama.cpp's numbers then
differ); the schema not sent along; the alias left out, so that replies carry a path; another host name than the loopback; pages of
other origins let in; verbosity left alone; the server stopped by nobody, or by a fork; `counts` and capabilities lost by `close`;
the package's absence not looked for; a file that is no model reported by llama.cpp's own exception.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from noiser import errors
from noiser.errors import JudgeError, MissingExtraError, ModelError, RunError
from noiser.judges.backend import Backend, Call, Completion
from noiser.judges.llama_server import LlamaBackend
from noiser.judges.prompting import build_messages, reply_schema, token_limit
from noiser.judges.protocol import JudgePrompt

pytest.importorskip("xllamacpp")
WORDS = ("Catalonia", "belongs", "to", "the", "continent", "of", "Danish", "pastry", "Joseph", "worked", "religion", "city")
BEGIN = """
import os, signal, sys, time
from noiser.judges.llama_server import LlamaBackend
from noiser.judges.backend import Call
backend = LlamaBackend("smollm2-135m")
backend.set_capabilities({"structured": True})
call = Call(({"role": "user", "content": "Say hello."},), None, 3)
backend.complete([call], lambda place, said: print(type(said).__name__, flush=True))
"""


def call(words, form="top1", structured=True):
    prompt = JudgePrompt(tuple(words), form)
    return Call(build_messages(prompt, structured), reply_schema(prompt) if structured else None, token_limit(prompt, structured))


def brief(text):
    return Call(({"role": "user", "content": text},), None, 4)


def opened(**how):
    """A judge that need not try how it is to be asked."""
    backend = LlamaBackend("smollm2-135m", **how)
    backend.set_capabilities({"structured": True})
    return backend


def heard_from(backend, calls):
    found = {}
    backend.complete(calls, found.__setitem__)
    assert sorted(found) == list(range(len(calls)))
    return [found[place] for place in range(len(calls))]


def probabilities(backend, asked):
    """The first tokens of a reply and the most probable others, with their logarithms of probability."""
    asked = {"messages": [dict(each) for each in asked.messages], "max_tokens": 3, "temperature": 0, "logprobs": True, "top_logprobs": 5}
    address = f"{backend._api._url}/chat/completions"
    request = urllib.request.Request(address, data=json.dumps(asked).encode(), headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["choices"][0]["logprobs"]


@pytest.fixture(scope="module")
def backend():
    found = LlamaBackend("smollm2-135m")
    yield found
    found.close()


def test_it_is_known_before_its_server_runs_and_knows_no_path():
    backend = LlamaBackend("smollm2-135m")
    file = backend._file
    assert backend._api is None
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert backend.identity == {"judge": f"llama:{file.name}", "sha256": digest}
    assert backend.model == f"{file.name}@sha256:{digest[:12]}"
    assert backend.name == "llama:smollm2-135m"
    named = LlamaBackend(str(file))
    assert (named.name, named.identity, named.model) == (f"llama:{file.name}", backend.identity, backend.model)
    assert str(file.parent) not in f"{named.name}{named.identity}{named.model}"
    assert backend.parameters(brief("hi")) == {"max_tokens": 4, "temperature": 0}


@pytest.mark.parametrize("form", ["top1", pytest.param("top5", marks=pytest.mark.slow)])
def test_replies_obey_their_schema(backend, form):
    assert isinstance(backend, Backend)
    assert backend.structured
    for said in heard_from(backend, [call(WORDS[:6], form), call(WORDS[6:9], form), call((), form)]):
        assert isinstance(said, Completion)
        assert said.model == backend.model
        if said.finish == "stop":
            found = json.loads(said.text)
            assert list(found) == list(reply_schema(JudgePrompt((), form))["required"])
            assert all(isinstance(word, str) for word in found.values())
        else:
            assert said.finish == "length"
            assert said.text.startswith("{")


@pytest.mark.slow
def test_it_says_the_same_whoever_else_asks():
    """To the last digit: in a batch, or after another prompt with the same beginning, llama.cpp's numbers are others, and in 6 of 40
    questions the reply was too."""
    backend = opened()
    backend.check()
    calls = [call(WORDS[n:], structured=False) for n in range(8)]
    alone = [probabilities(backend, each) for each in calls]
    assert len({str(each) for each in alone}) == len(calls)
    with ThreadPoolExecutor(8) as pool:
        for order in (1, -1):
            assert list(pool.map(lambda each: probabilities(backend, each), calls[::order])) == alone[::order]
    backend.close()


def test_only_this_machine_reaches_it_and_no_page_of_another_origin():
    before = {each.laddr for each in psutil.Process().net_connections("inet") if each.status == "LISTEN"}
    backend = opened()
    backend.check()
    new = {each.laddr for each in psutil.Process().net_connections("inet") if each.status == "LISTEN"} - before
    assert [address.ip for address in new] == ["127.0.0.1"]
    request = urllib.request.Request(f"http://127.0.0.1:{new.pop().port}/v1/models", headers={"Origin": "https://elsewhere.example"})
    with urllib.request.urlopen(request) as reply:
        allowed, said = reply.headers.get("Access-Control-Allow-Origin"), reply.read().decode()
    assert allowed not in ("*", "https://elsewhere.example")
    assert str(Path(backend._file).parent) not in said
    backend.close()
    assert before == {each.laddr for each in psutil.Process().net_connections("inet") if each.status == "LISTEN"}


@pytest.mark.slow
def test_two_serve_in_one_process_and_one_that_was_closed_starts_again():
    one, other = LlamaBackend("smollm2-135m"), opened()
    one.check()
    (said,) = heard_from(one, [brief("hi")])
    assert heard_from(other, [brief("hi")]) == [said]
    one.close()
    one.close()
    assert heard_from(other, [brief("hi")]) == [said]
    assert one.capabilities["structured"]
    assert heard_from(one, [brief("hi")]) == [said]
    assert (one.counts, other.counts) == ({"calls": 3}, {"calls": 2})
    one.close()
    other.close()


def test_a_fork_leaves_the_server_alone():
    backend = opened()
    (said,) = heard_from(backend, [brief("hi")])
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        backend.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert heard_from(backend, [brief("hi")]) == [said]
    backend.close()


@pytest.mark.parametrize(
    ("then", "code", "last"),
    [
        ("", 0, ""),
        pytest.param("1 / 0", 1, "ZeroDivisionError: division by zero", marks=pytest.mark.slow),
        pytest.param("backend.close(); del backend", 0, "", marks=pytest.mark.slow),
        pytest.param("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT, "KeyboardInterrupt", marks=pytest.mark.slow),
    ],
)
def test_it_ends_with_its_process_and_writes_nothing(then, code, last):
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", BEGIN + then], capture_output=True, text=True, timeout=120)
    print(f"{time.monotonic() - start:.1f} s")
    assert (done.returncode, done.stdout) == (code, "Completion\n")
    assert done.stderr.strip().rpartition("\n")[2] == last
    assert "srv" not in done.stderr
    assert "llama_" not in done.stderr


def test_a_question_that_is_too_long_is_an_error_of_its_own():
    backend = opened()
    long, good = heard_from(backend, [brief("word " * 5000), brief("hi")])
    assert isinstance(long, JudgeError)
    assert isinstance(good, Completion)
    backend.close()


def test_what_cannot_be_served_is_said(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        LlamaBackend(str(tmp_path / "nothing.gguf"))
    with pytest.raises(ModelError, match=r"is a \.gguf file"):
        LlamaBackend("gpt2")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(RunError, match=r"cannot serve damaged\.gguf"):
        LlamaBackend(str(damaged)).check()
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'noiser\[llama\]'"):
        LlamaBackend("smollm2-135m")
