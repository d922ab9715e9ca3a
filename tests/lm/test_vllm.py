"""Scores through the real vLLM, on a CPU, against the same models loaded here: make test-vllm.

Each server needs 20 to 60 seconds to start, and one runs at a time.
"""

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

import noiser
from noiser.errors import ModelError
from noiser.lm.load import locate
from noiser.lm.target import Question
from tests.conftest import byte_tokenizer, tiny

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
EMBEDS = ("--enable-prompt-embeds", "--max-logprobs", "-1")
PROMPTS = ("The Eiffel Tower is located in the city of", "2 + 2 =", [{"role": "user", "content": "Say hello."}])
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed: make test-vllm installs it and runs these tests"),
]


@contextmanager
def vllm(folder, *flags):
    """A server on loopback, and its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    arguments = ["--model", str(folder), "--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", *arguments, "--enforce-eager", *flags]
    log = Path(folder) / f"vllm-{port}.log" if os.access(folder, os.W_OK) else Path(os.devnull)
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"vllm:http://127.0.0.1:{port}/m"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait(process, url, log):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=2):
                return
        except (URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"vLLM does not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="module")
def address():
    with vllm(locate("smollm2-135m")[0], *EMBEDS) as found:
        yield found


METHODS = ["noiser", "noiser:bound=none", "noiser:bound=rms", "occlusion", "occlusion:baseline=unk", "lime:samples=60"]


@pytest.mark.parametrize("method", METHODS)
def test_the_default_models_scores(address, smol, method):
    served = noiser.load(address, "smollm2-135m")
    for prompt in PROMPTS[: 2 if method == "noiser" else 3]:
        here, there = noiser.attribute(smol, prompt, method), noiser.attribute(served, prompt, method)
        assert here.notes.get("k") == there.notes.get("k")
        assert np.abs(here.scores - there.scores).max() < 1e-4
        assert (here.targets[0].token_ids, here.targets[0].rank) == (there.targets[0].token_ids, there.targets[0].rank)


QUESTIONS = [Question(" Rome"), Question(" Paris", " Rome"), Question(generate=3), Question(" Paris, France"), Question(quantity="jsd")]


@pytest.mark.parametrize("asked", QUESTIONS, ids=repr)
def test_targets(address, smol, asked):
    here, there = (noiser.attribute(lm, PROMPTS[0], "occlusion", asked) for lm in (smol, noiser.load(address, "smollm2-135m")))
    assert [target.token_ids for target in here.targets] == [target.token_ids for target in there.targets]
    assert np.abs(here.scores - there.scores).max() < 1e-4


def test_soft_metrics(address, smol):
    tables = [
        noiser.evaluate(lm, [PROMPTS[0]], ["occlusion"], ["soft_ns:masks=4", "soft_nc:masks=4"], controls=())
        for lm in (smol, noiser.load(address, "smollm2-135m"))
    ]
    for here, there in zip(tables[0].records, tables[1].records, strict=True):
        assert here.value == pytest.approx(there.value, abs=1e-4)


@pytest.mark.parametrize("family", ["gemma3_text", "qwen2"])
def test_other_families(tmp_path, family):
    """Gemma multiplies embeddings by the root of their size."""
    heads = {"head_dim": 32} if "gemma" in family else {}
    tiny(family, hidden_size=128, intermediate_size=64, vocab_size=260, num_hidden_layers=1, **heads).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with vllm(tmp_path, *EMBEDS) as address:
        here, there = (
            noiser.attribute(lm, "why so?", "occlusion") for lm in (noiser.load(str(tmp_path)), noiser.load(address, str(tmp_path)))
        )
    assert np.abs(here.scores - there.scores).max() < 1e-4


@pytest.mark.parametrize(("flags", "wanted"), [(("--max-logprobs", "-1"), "--enable-prompt-embeds"), (EMBEDS[:1], "--max-logprobs -1")])
def test_a_server_without_a_flag_is_refused_with_it(tmp_path, flags, wanted):
    tiny("qwen2", hidden_size=128, intermediate_size=64, vocab_size=260, num_hidden_layers=1).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with vllm(tmp_path, *flags) as address, pytest.raises(ModelError, match=f"Start vLLM with {wanted}"):
        noiser.attribute(noiser.load(address, str(tmp_path)), "why so?", "occlusion")
