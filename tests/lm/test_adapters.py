"""Adapters and wrapped models have the scores of the plain model with the same weights.

The oracle is the model with the adapter merged into its weights, explained as any other. Each test names the mutant that it catches.
"""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
from typer.testing import CliRunner

import noiser
from noiser import cli
from noiser.errors import MissingExtraError, ModelError
from noiser.lm.load import identify
from tests.conftest import byte_tokenizer, tiny

LORA = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}


def adapted(config=None, base=None):
    """A model of PEFT whose adapter changes its numbers."""
    model: peft.PeftModel = peft.get_peft_model(base or tiny("llama"), config or peft.LoraConfig(**LORA))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "ia3_" in name:
                parameter.normal_(0, 0.3)
    return model.eval()


def merged():
    return noiser.load(adapted().merge_and_unload(), byte_tokenizer())


def scores(lm, method="occlusion"):
    return noiser.attribute(lm, "the cat", method).scores


@pytest.fixture
def folders(tmp_path):
    """A base model with its tokenizer, and an adapter that names it."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny("llama").save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    adapted().save_pretrained(adapter)
    changed(adapter, base_model_name_or_path=str(base))
    return base, adapter


def changed(folder, **values):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("method", ["occlusion", "noiser", "integrated_gradients"])
def test_a_wrapped_model_has_the_scores_of_the_merged_one(method):
    """Mutant: `unwrap` returns the model itself, or the base without its adapter (`model.unload()`)."""
    lm = noiser.load(adapted(), byte_tokenizer())
    np.testing.assert_allclose(scores(lm, method), scores(merged(), method), atol=1e-5)
    assert abs(scores(lm) - scores(noiser.load(tiny("llama"), byte_tokenizer()))).max() > 1e-3, "the adapter must do something"


def test_a_compiled_model_has_the_scores_of_the_plain_one():
    """Mutant: `_orig_mod` not looked at (the signature of a compiled model is that of any function)."""
    compiled = torch.compile(tiny("llama"), backend="eager")
    both = torch.compile(adapted(), backend="eager")
    np.testing.assert_array_equal(scores(noiser.load(compiled, byte_tokenizer())), scores(noiser.load(tiny("llama"), byte_tokenizer())))
    np.testing.assert_allclose(scores(noiser.load(both, byte_tokenizer())), scores(merged()), atol=1e-5)


def test_a_loaded_adapter_is_part_of_the_name_and_its_revision_is_not_the_base_models():
    """Mutant: `model_revision` is the commit of the configuration."""
    base = tiny("llama")
    base.config._commit_hash, base.config._name_or_path = "c0ffee", "somebody/model"
    assert (lm := noiser.load(base, byte_tokenizer())).revision == "c0ffee"
    lm = noiser.load(adapted(base=base), byte_tokenizer())
    assert (lm.name, lm.revision) == ("somebody/model+default", "unknown")


def test_an_adapter_with_tokens_of_its_own_is_refused():
    """Mutant: `check_adapter` not called: the prompt would miss the adapter's tokens."""
    config = peft.PromptTuningConfig(task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=3)
    with pytest.raises(ModelError, match=r"PROMPT_TUNING\) puts tokens of its own before the prompt.*LoRA"):
        noiser.load(peft.get_peft_model(tiny("llama"), config), byte_tokenizer())


def test_an_adapter_folder_loads_with_the_base_that_it_names(folders):
    """Mutant: `add_adapter` not called."""
    base, adapter = folders
    np.testing.assert_allclose(scores(noiser.load(adapter)), scores(merged()), atol=1e-5)
    np.testing.assert_array_equal(scores(noiser.load(base, adapter=adapter)), scores(noiser.load(adapter)))


@pytest.mark.parametrize("config", [peft.LoraConfig(**LORA, use_dora=True), peft.IA3Config(task_type="CAUSAL_LM")], ids=["dora", "ia3"])
def test_other_kinds_of_adapters_that_change_weights_load_too(folders, config):
    """Mutant: `check_adapter` refuses what is not LORA. IA3 merges to within rounding only."""
    base, adapter = folders
    shutil.rmtree(adapter)
    adapted(config).save_pretrained(adapter)
    expected = noiser.load(adapted(config).merge_and_unload(), byte_tokenizer())
    np.testing.assert_allclose(scores(noiser.load(base, adapter=adapter)), scores(expected), atol=1e-5)


def test_the_adapter_belongs_to_the_identity(folders):
    """Mutant: `full_revision` without the adapter's, or `identify` without it."""
    base, adapter = folders
    lm, plain = noiser.load(adapter), noiser.load(base)
    assert lm.name == "base+adapter"
    assert lm.revision.startswith(f"{plain.revision}+sha256:")
    identified = identify(str(adapter))
    assert (identified.name, identified.revision) == (lm.name, lm.revision)
    assert identify(str(base), adapter=str(adapter)) == identified
    changed(adapter, lora_alpha=32)
    assert noiser.load(adapter).revision != lm.revision


def test_a_base_of_another_name_is_loaded_with_a_warning(folders):
    """Mutant: `warnings` empty."""
    base, adapter = folders
    changed(adapter, base_model_name_or_path="somebody/another")
    result = noiser.attribute(noiser.load(base, adapter=adapter), "abc", "occlusion")
    assert result.notes["warnings"] == [f"the adapter was made for the model somebody/another, and is used with {base}"]
    assert noiser.attribute(noiser.load(base), "abc", "occlusion").notes["warnings"] == []


def test_an_adapter_without_peft_says_what_to_install(folders, monkeypatch):
    """Mutant: `require_extra` not called."""
    from noiser import errors

    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "peft" else object())
    for arguments in ({"model": folders[1]}, {"model": folders[0], "adapter": folders[1]}):
        with pytest.raises(MissingExtraError, match=r"an adapter \(LoRA\), needs peft\. Type: pip install 'noiser\[peft\]'"):
            noiser.load(**arguments)


def test_a_pickled_adapter_is_refused_and_not_read(folders):
    """Mutant: `adapter_weights` not called in `add_adapter`."""
    _, adapter = folders
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"pickled \(adapter_model\.bin\).*--allow-pickle"):
        noiser.load(adapter)


def test_an_adapter_that_does_not_fit_is_refused_by_the_names_of_its_tensors(folders):
    """Mutant: `_check_tensors` not called: PEFT goes on with tensors drawn at random, and without those it does not know."""
    base, adapter = folders
    changed(adapter, target_modules=["q_proj", "down_proj", "v_proj"])
    with pytest.raises(ModelError, match=r"adapter adapter do not fit the model: they lack base_model\..*v_proj\.lora_A"):
        noiser.load(adapter)
    changed(adapter, target_modules=["q_proj"])
    with pytest.raises(ModelError, match=r"tensors that the model does not have: base_model\..*down_proj\.lora_A"):
        noiser.load(adapter)
    changed(adapter, target_modules=["q_proj", "down_proj"], r=3)
    with pytest.raises(ModelError, match=rf"adapter adapter do not fit the model: size mismatch.* made for {base}"):
        noiser.load(adapter)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (None, r"names no base model.*--model BASE --adapter"),
        ("/nowhere/base", r"names the base model '/nowhere/base', and there is no folder.*--model BASE --adapter"),
        ("ITSELF", r"names another adapter as its base.*--model BASE"),
    ],
)
def test_an_adapter_without_its_base_says_what_to_give(folders, named, message):
    """Mutant: `_base_place` without its checks."""
    changed(folders[1], base_model_name_or_path=str(folders[1]) if named == "ITSELF" else named)
    with pytest.raises(ModelError, match=message):
        noiser.load(folders[1])


def test_one_adapter_at_a_time(folders, tmp_path):
    """Mutant: `own` not looked at."""
    with pytest.raises(ModelError, match="is an adapter itself"):
        noiser.load(folders[1], adapter=folders[1])
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        noiser.load(folders[0], adapter=folders[0])
    with pytest.raises(ModelError, match="there is no folder"):
        noiser.load(folders[0], adapter=tmp_path / "nowhere")


def test_tokens_that_came_with_the_adapter_have_their_embeddings(folders):
    """Mutant: `_fit_vocabulary` not called: the shapes do not fit."""
    base, adapter = folders
    shutil.rmtree(adapter)
    larger = tiny("llama")
    larger.resize_token_embeddings(320)
    model = adapted(peft.LoraConfig(**LORA, modules_to_save=["embed_tokens", "lm_head"]), larger)
    model.save_pretrained(adapter)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<new{number}>" for number in range(50)])
    tokenizer.save_pretrained(adapter)
    lm = noiser.load(base, adapter=adapter)
    prompt = "a<new40>b"
    assert max(lm.prompt(prompt).input_ids) >= 299
    expected = noiser.attribute(noiser.load(model, tokenizer), prompt, "occlusion").scores
    np.testing.assert_allclose(noiser.attribute(lm, prompt, "occlusion").scores, expected, atol=1e-5)


def run(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_option_adapter_of_the_command_line(folders):
    """Mutant: `adapter` left out of `ModelChoiceOptions`."""
    base, adapter = folders
    ended = run("attribute", "the cat", "--method", "occlusion", "--model", base, "--adapter", adapter, "--format", "json")
    assert ended.exit_code == 0, ended.output
    result = json.loads(ended.stdout)
    np.testing.assert_allclose(result["scores"], scores(merged()), atol=1e-5)
    assert result["model"] == "base+adapter"


def test_a_run_keeps_the_adapter_in_its_identity(folders, tmp_path):
    """Mutant: `adapter` not handed on to `identify` or to `load` (the worker then refuses), or left out of the label."""
    base, adapter = folders
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "run"
    prompts.write_text('{"prompt": "the cat"}\n')
    words = ["run", "--data", prompts, "--models", base, "--methods", "occlusion", "--metrics", "", "--controls", "", "--out", out]
    ended = run(*words, "--adapter", adapter)
    assert ended.exit_code == 0, ended.output
    (facts,) = json.loads((out / "run.json").read_text())["record"]["identity"]["models"].items()
    assert facts[0] == "base+adapter"
    assert facts[1]["revision"] == noiser.load(adapter).revision
    changed(adapter, lora_alpha=32)
    again = run(*words, "--adapter", adapter)
    assert again.exit_code != 0
    assert "holds another run" in str(again.exception)
