"""`noiser serve`: it starts, says where, answers, and ends when it is told to."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import httpx
import pytest
from typer.testing import CliRunner

from noiser.cli import app
from noiser.cli.options import ModelOptions
from noiser.cli.serve import ServeOptions, bind
from noiser.cli.serve import run as serve
from noiser.errors import OptionError
from tests.conftest import byte_tokenizer, tiny
from tests.web_server import until

ASK = {"prompt": "the cat sat on", "method": "occlusion"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model as a folder."""
    found = tmp_path_factory.mktemp("model")
    tiny("llama").save_pretrained(found)
    byte_tokenizer().save_pretrained(found)
    return found


@contextmanager
def process(*arguments, **environment):
    """The command in a process of its own, and the address that it prints."""
    command = [sys.executable, "-m", "noiser", "serve", "--port", "0", *map(str, arguments)]
    found = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    )
    try:
        line = found.stdout.readline()
        address = re.match(r"noiser: (http://\S+)", line)
        assert address, line + (found.stderr.read() if found.poll() else "")
        yield found, address[1]
    finally:
        found.kill()
        found.wait()


def test_it_answers_and_ends_at_ctrl_c_in_the_middle_of_a_job(folder, capsys):
    """Status 130 within 2 s. Mutant: `handle_exit` does not close the desk."""
    with process("--model", folder) as (running, address), httpx.Client(base_url=address, timeout=60) as client:
        begin = time.perf_counter()
        until(lambda: client.get("/api/about").json()["status"] == "ready", 120)
        answer = client.post("/api/attribute", json=ASK)
        assert answer.status_code == 200 and answer.json()["prompt"]["text"] == ASK["prompt"]
        last, told = "", 0.0
        with suppress(httpx.TransportError), client.stream("POST", "/api/explain", json=_long()) as stream:
            for line in stream.iter_lines():
                if '"progress"' in line and not told:
                    running.send_signal(signal.SIGINT)
                    told = time.perf_counter()
                last = line
        assert running.wait(10) == 130
        took = time.perf_counter() - told
        assert told and '"Stopped"' in last, "who waits is told"
        written = running.stderr.read()
    assert took < 2, "seconds from Ctrl-C to the end"
    assert re.search(r"\d\d:\d\d:\d\d POST /api/attribute 200 \d+ ms", written) and ASK["prompt"] not in written
    assert "Traceback" not in written
    with capsys.disabled():
        print(f"\nends {took:.2f} s after Ctrl-C in the middle of a job; was ready {told - begin:.1f} s after it printed its address")


def _long():
    return {"prompt": "a question that takes a long time", "method": "noiser", "options": {"samples": 5000, "search": "exact", "steps": 20}}


@pytest.mark.slow
def test_it_ends_at_ctrl_c_while_the_model_is_being_read(folder):
    with process("--model", folder) as (running, address):
        assert httpx.get(address + "template.html", timeout=20).status_code == 200
        running.send_signal(signal.SIGINT)
        begin = time.perf_counter()
        assert running.wait(10) == 130 and time.perf_counter() - begin < 2
        assert "Traceback" not in running.stderr.read()


def test_another_address_than_this_machine_s_wants_a_token(folder):
    """One is made and shown once, in the part of the address that no server ever sees. Mutant: `_token(True)`."""
    with process("--model", folder, "--host", "0.0.0.0") as (running, address):
        base, token = re.fullmatch(r"(http://0\.0\.0\.0:\d+/)#token=([\w-]{40,})", address).groups()
        local = base.replace("0.0.0.0", "127.0.0.1")
        assert httpx.post(local + "api/attribute", json=ASK).status_code == 401
        assert httpx.get(local + "api/", headers={"Authorization": f"Bearer {token}"}).status_code == 404
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) in (-signal.SIGTERM, 130)
        assert token not in running.stderr.read()


def test_a_token_that_was_set_is_wanted_here_too_and_not_shown(folder):
    with process("--model", folder, NOISER_TOKEN="chosen-by-the-person-0123") as (_, address):
        assert "token" not in address
        assert httpx.get(address + "api/about").status_code == 401


def test_a_port_that_is_taken(folder, capsys):
    """An error in a sentence, before anything is read."""
    with bind("127.0.0.1", 0) as taken, pytest.raises(OptionError, match="in use"):
        serve(ModelOptions(model=str(folder)), ServeOptions(port=taken.getsockname()[1]))


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", ""])
def test_an_address_that_is_not_ours(host):
    with pytest.raises(OptionError):
        bind(host, 0)


def test_loopback_by_name_and_by_number():
    for host in ("localhost", "127.0.0.1", "::1"):
        try:
            with bind(host, 0) as made:
                assert made.getsockname()[0] in ("127.0.0.1", "::1")
        except OptionError:
            assert host == "::1", "a machine may be without IPv6"


def test_short_tokens_are_refused(monkeypatch):
    monkeypatch.setenv("NOISER_TOKEN", "short")
    with pytest.raises(OptionError, match="at least 16"):
        serve(ModelOptions(model="nothing"), ServeOptions(port=0))


def test_help_says_what_there_is():
    shown = CliRunner().invoke(app, ["serve", "--help"]).stdout
    assert "--allowed-host" in shown and "--max-tokens" in shown and "--queue" in shown
