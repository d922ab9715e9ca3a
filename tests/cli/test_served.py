"""The command line with a model behind a server: one prompt, a comparison, and a run that goes on at another address.

Mutants caught: `--tokenizer` does not reach the run; the address is part of a run's identity.
"""

import json

import pytest

import noiser
from tests.runs import make_place
from tests.served_server import FakeVllm, status


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def local(place):
    return noiser.load(str(place / "model"))


def test_one_prompt_and_a_comparison(command_line, place, local):
    with FakeVllm(local.model) as fake:
        model = ("--model", fake.address, "--tokenizer", place / "model")
        code, out, _ = command_line("attribute", "so so", *model, "--method", "occlusion", "--format", "json")
        said = json.loads(out)
        assert (code, said["model"]) == (0, "tiny")
        assert said["scores"][0] == pytest.approx(noiser.attribute(local, "so so", "occlusion").scores[0].tolist(), abs=2e-5)
        code, out, _ = command_line("compare", "so so", *model, "--methods", "occlusion,integrated_gradients", "--format", "json")
        assert code == 1 and "runs behind a server" in out  # one method failed
        code, _, err = command_line("attribute", "so so", *model, "--method", "integrated_gradients")
        assert code != 0 and "integrated_gradients needs the model's gradients" in err
    assert command_line("attribute", "so so", "--model", fake.address)[2].count("needs --tokenizer") == 1


def test_a_run_goes_on_at_another_address(command_line, place, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("noiser.lm.served.client.CONNECT_TIMEOUT", 0.3)
    rest = ("--tokenizer", place / "model", "--data", place / "few.jsonl", "--limit", "3", "--methods", "occlusion")
    rest = (*rest, "--metrics", "soft_ns:masks=2", "--controls", "random", "--out", "r")
    with FakeVllm(local.model, faults=lambda random: status(401) if fake.counts["requests"] > 6 else None) as fake:
        code, _, err = command_line("run", "--models", fake.address, *rest)
    assert code != 0 and "wants a key: set NOISER_MODEL_KEY" in err
    with FakeVllm(local.model) as fake:
        code, _, err = command_line("run", "--models", fake.address, *rest)
    assert code == 0 and "3 of 3 samples done, 0 with failures" in err
    with FakeVllm(local.model, name="tiny") as fake:
        assert "vllm:tiny" in command_line("status", "r")[1]
        code, _, err = command_line("run", "--models", f"vllm:http://127.0.0.1:{fake.port}/tiny", *rest)
        assert code == 0 and not fake.headers, "nothing is left to do, so nothing is sent"
