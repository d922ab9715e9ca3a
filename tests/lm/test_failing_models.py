"""A model that raises on one prompt of many costs that prompt only, in every command; the exit status says so.

Mutants are named in each test. The model is a Llama whose layer takes 40 tokens at most, in no field of its configuration.
"""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import noiser
from noiser import cli
from noiser.errors import ModelError, ModelFailedError, Stopped
from noiser.lm.requests import Generation
from noiser.lm.scheduler import schedule
from tests.conftest import byte_tokenizer, tiny

SHORT, LONG = "The capital is", "The capital of France is Paris and the capital of England is London ."
PROMPTS = [SHORT, LONG, "Rome is a city"]


def failing(error=None, most=40, part="layer"):
    """A model whose layer or embedding raises for sequences of more than `most` tokens."""
    model = tiny("llama", max_position_embeddings=512)

    def check(_module, arguments):
        seq = arguments[0].shape[1 if part == "layer" else -1]
        if seq > most:
            raise error or IndexError(f"index {seq} is out of bounds")

    (model.model.layers[0] if part == "layer" else model.model.embed_tokens).register_forward_pre_hook(check)
    return model


@pytest.fixture
def lm():
    return noiser.load(failing(), byte_tokenizer())


@pytest.fixture
def files(tmp_path, monkeypatch, lm):
    """A file of prompts; `noiser.load` gives the failing model."""
    monkeypatch.setattr("noiser.experiments.worker.load", lambda *_, **__: lm)
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: lm)
    folder = tmp_path / "model"
    tiny("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"prompt": prompt, "id": str(number)}) + "\n" for number, prompt in enumerate(PROMPTS)))
    return prompts, rows, folder


def run(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.mark.parametrize("error", [None, RuntimeError("no kernel image"), AttributeError("shape"), AssertionError()])
def test_the_other_prompts_have_their_scores(error):
    """Mutant: `except RuntimeError` in `call_model` and in `_model_errors`."""
    lm = noiser.load(failing(error), byte_tokenizer())
    first, failed, last = noiser.attribute_many(lm, PROMPTS, "occlusion", errors="return")
    plain = noiser.load(tiny("llama", max_position_embeddings=512), byte_tokenizer())
    for result, prompt in ((first, SHORT), (last, PROMPTS[2])):
        np.testing.assert_allclose(result.scores, noiser.attribute(plain, prompt, "occlusion").scores, atol=1e-5)
    assert isinstance(failed.error, ModelFailedError)
    assert f"LlamaForCausalLM fails on 1 row of {len(LONG)} tokens: {type(error or IndexError()).__name__}" in str(failed.error)
    assert "--attention eager" in str(failed.error)
    assert isinstance(failed.error.__cause__, type(error or IndexError()))


def test_rows_whose_gradient_raises_cost_their_prompt_only():
    """Mutant: `_model_errors` left out of `_answer_perturbed`. Only the backward pass of rows of 5 tokens raises here."""
    model = tiny("gpt_neox")

    def fail(_gradient):
        raise ValueError("no derivative")

    def watch(_module, _arguments, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad and hidden.shape[1] == 5:
            hidden.register_hook(fail)

    model.gpt_neox.layers[0].register_forward_hook(watch)
    lm = noiser.LanguageModel(model, byte_tokenizer(), prefix=False)
    first, failed = noiser.attribute_many(lm, ["abc", "abcde"], "integrated_gradients", errors="return")
    assert abs(first.scores).max() > 0
    assert "GPTNeoXForCausalLM fails on perturbed rows of a prompt of 5 tokens: ValueError: no derivative" in str(failed.error)


def test_an_embedding_that_raises_costs_its_prompt_only():
    """Mutants: `_model_errors` left out of `_answer_forward`, or of `_answer_generation`."""
    lm = noiser.load(failing(part="embedding"), byte_tokenizer())

    def generate(text):
        return (yield Generation(lm.prompt(text), 2))

    first, failed = schedule(lm, [generate(SHORT), generate(LONG)])
    assert len(first.result) == 2
    assert "fails while it generates a continuation: IndexError" in str(failed.error)
    first, failed = noiser.attribute_many(lm, [SHORT, LONG], "occlusion", errors="return")
    assert abs(first.scores).max() > 0
    assert f"fails on a prompt of {len(LONG)} tokens: IndexError" in str(failed.error)


def test_the_user_can_still_stop():
    """Mutant: `Stopped` not passed on by `_model_errors`."""

    def stop(done, remaining):
        raise Stopped

    lm = noiser.load(tiny("llama"), byte_tokenizer())
    with pytest.raises(Stopped), lm.progress_callback(stop):
        noiser.attribute(lm, SHORT, "occlusion")


def test_attribute_with_a_file_says_which_line_failed(files):
    """Mutant: `errors="raise"` in the command: it ends with the first error."""
    ended = run("attribute", "--file", files[0], "--method", "occlusion", "--format", "jsonl")
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ["error" in record for record in records] == [False, True, False]
    assert ended.exit_code == 1
    assert "IndexError" in str(records[1])


def test_evaluate_has_a_status_for_the_prompt_that_failed(files):
    """Mutant: `status_of` without ModelFailedError."""
    words = ["--methods", "occlusion", "--metrics", "sufficiency", "--controls", "", "--format", "json"]
    ended = run("evaluate", "--prompts", files[1], *words)
    record = json.loads(ended.stdout)
    statuses = {each["sample"]: each["status"] for each in record["records"] if each["method"] == "occlusion"}
    assert statuses == {"0": "ok", "1": "error(IndexError)", "2": "ok"}
    assert ended.exit_code == 1


def test_a_run_goes_on_behind_the_prompt_that_failed(files, tmp_path, lm):
    """Mutant: ModelFailedError not among the reasons of `screening._reason`: the run ends before its first sample."""
    words = ["--data", files[1], "--models", files[2], "--methods", "occlusion", "--metrics", "sufficiency", "--controls", ""]
    lm.revision = noiser.lm.load.identify(str(files[2])).revision
    ended = run("run", *words, "--out", tmp_path / "run")
    assert "IndexError" in ended.output
    status = json.loads(run("status", tmp_path / "run", "--format", "json").stdout)
    assert status["statuses"]["ok"] == 4, "a row of scores and a value for each of two prompts"
    assert ended.exit_code == 1


def test_a_model_without_a_gradient_has_the_methods_that_need_none(tokenizer):
    """As Reformer, RWKV and xLSTM. Mutants: `why_not_differentiable` always empty, or asked for a user's function too."""
    expected = noiser.attribute(noiser.LanguageModel(tiny("llama"), tokenizer), (5, 6, 7), "noiser")
    model = tiny("llama")

    def refuse(*_):
        assert not torch.is_grad_enabled(), "for training, call train()"

    model.model.layers[1].register_forward_pre_hook(refuse)
    lm = noiser.LanguageModel(model, tokenizer)
    np.testing.assert_allclose(noiser.attribute(lm, (5, 6, 7), "noiser").scores, expected.scores, atol=1e-6)
    for method in ("input_x_gradient", "integrated_gradients"):
        with pytest.raises(ModelError, match=r"LlamaForCausalLM has no gradient: AssertionError: for training.*noiser, occlusion"):
            noiser.attribute(lm, (5, 6, 7), method)


def test_a_prompt_on_which_the_model_fails_leaves_the_others_their_gradients():
    """Mutant: `why_not_differentiable` does not try the pass without a gradient."""
    lm = noiser.LanguageModel(failing(), byte_tokenizer())
    results = list(noiser.attribute_many(lm, [LONG, SHORT], "input_x_gradient", errors="return"))
    assert isinstance(results[0], noiser.Failure)
    assert isinstance(results[1], noiser.Attribution)
