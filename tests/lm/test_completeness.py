"""Tensors that are missing, not expected or of another shape are refused by name; good models of every family load.

Mutants caught: `check_loaded` not called; one of its faults left out; `check_sizes` not called, or only after the model is
built; tied weights or old buffers taken for faults.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import noiser
from noiser.errors import ModelError
from noiser.lm import load as loading
from tests.conftest import TINY, byte_tokenizer, tiny


@pytest.fixture
def folder(tmp_path):
    """A tiny model and its tokenizer, as saved by transformers."""
    tiny("llama").save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_missing_layer_is_refused_by_name(folder):
    """Transformers draws it at random. Mutant: missing tensors not looked at."""

    def remove(tensors):
        for name in [name for name in tensors if ".layers.1." in name]:
            del tensors[name]

    change_weights(folder, remove)
    with pytest.raises(ModelError, match=r"model do not fit.*lack model\.layers\.1\.input_layernorm\.weight.* and 6 more"):
        noiser.load(folder)


def test_an_unexpected_tensor_is_refused_by_name(folder):
    """Mutant: unexpected tensors not looked at."""
    change_weights(folder, lambda tensors: tensors.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(2)}))
    with pytest.raises(ModelError, match=r"does not have: model\.layers\.2\.mlp\.up_proj\.weight"):
        noiser.load(folder)


def test_a_tensor_of_another_shape_is_refused_by_name(folder):
    """Mutant: mis-shaped tensors not looked at."""
    change_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(63)}))
    with pytest.raises(ModelError, match=r"another shape.*model\.norm\.weight \(\(63,\), not \(64,\)\)"):
        noiser.load(folder)


def test_constants_that_old_versions_saved_are_no_fault(folder):
    """Mutant: OLD_BUFFERS not looked at."""
    change_weights(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}))
    assert noiser.load(folder).prompt("a").input_ids


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "not tied"])
def test_a_good_model_of_every_family_loads(tmp_path, family, tied):
    """Mutant: tied weights taken for missing, or a size of a good configuration refused."""
    tiny(family, tie_word_embeddings=tied).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    assert noiser.load(tmp_path / "model").prompt("a").input_ids


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("values", "match"),
    [({"num_hidden_layers": 20_000}, "num_hidden_layers=20,000, but the weights hold 21 tensors"),
     ({"vocab_size": 1 << 40}, "vocab_size=1,099,511,627,776, but no tensor"), ({"hidden_size": 1 << 20}, "hidden_size"),
     ({"intermediate_size": 2_000}, "describes a model of .* but its weight files hold"),
     ({"nested": {"num_hidden_layers": 20_000}}, "num_hidden_layers=20,000")],
)  # fmt: skip
def test_a_model_larger_than_its_weights_is_refused_before_it_is_built(folder, monkeypatch, values, match):
    """Mutant: `check_sizes` not called, so that the model fills the memory first."""
    change_config(folder, **values)
    monkeypatch.setattr(loading, "AutoModelForCausalLM", None)
    with pytest.raises(ModelError, match=match):
        noiser.load(folder)
