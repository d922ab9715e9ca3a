"""Quantized models have the scores of the model with their weights as ordinary numbers, or they are refused with the reason.

The tests with bitsandbytes and gptqmodel are skipped without these packages. Each test names the mutant that it catches.
"""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import noiser
from noiser.errors import ModelError
from noiser.lm.quantized import ROUNDED, check_quantized, stored_weights
from tests.conftest import byte_tokenizer, tiny

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
METHODS = ("input_x_gradient", "occlusion", "noiser", "input_x_gradient")


class Linear8bitLt(nn.Linear):
    """The attributes of bitsandbytes' layer that are read."""

    def __init__(self, threshold):
        super().__init__(2, 2)
        self.state = SimpleNamespace(threshold=threshold)


@pytest.fixture
def folder(tmp_path):
    """A model with its tokenizer. Its sizes are those that 4-bit kernels take."""
    tiny("llama", **SIZES).save_pretrained(tmp_path / "plain")
    byte_tokenizer().save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def scores(model, method):
    lm = model if isinstance(model, noiser.LanguageModel) else noiser.load(model, byte_tokenizer())
    return noiser.attribute(lm, "the cat", method, target=70).scores


def quantized(folder, **settings):
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(**settings)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32).eval()


def test_8_bit_layers_that_look_at_the_whole_batch_are_refused():
    """Mutant: `_check_threshold` not called, or `threshold < 0`."""
    model = nn.Sequential(Linear8bitLt(6.0))
    with pytest.raises(ModelError, match=r"llm_int8_threshold=6\. They look for large values in all rows.*Set it to 0\.0"):
        check_quantized(model)
    assert check_quantized(nn.Sequential(Linear8bitLt(0.0))) == (ROUNDED,)
    assert check_quantized(tiny("llama")) == ()


def test_4_bit_weights_that_a_cpu_has_rearranged_are_refused():
    """Mutant: `packing_format_for_cpu` not looked at: gradients would be wrong without a word."""
    layer: Any = nn.Linear(2, 2)
    layer.weight.quant_state = SimpleNamespace(packing_format_for_cpu=True)
    with pytest.raises(ModelError, match=r"rearranged the 4-bit weights.*Load the model again"):
        check_quantized(nn.Sequential(layer))


def test_the_layers_are_as_before_behind_the_block():
    """Mutant: `finally` left out."""
    layer: Any = nn.Linear(2, 2)
    layer.support_avx512bf16_for_cpu = True
    with pytest.raises(KeyError), stored_weights(layer.modules()):
        assert not layer.support_avx512bf16_for_cpu
        raise KeyError
    assert layer.support_avx512bf16_for_cpu


def test_a_kind_of_quantization_that_transformers_does_not_know_is_refused(folder):
    """Mutant: `check_quantization` not called: transformers skips the quantization and reads the numbers as weights."""
    change_config(folder, {"quant_method": "wild", "bits": 4})
    with pytest.raises(ModelError, match=r"quantized by 'wild', which this version of transformers does not know"):
        noiser.load(folder)


@pytest.mark.parametrize("changes", [{}, {"bnb_4bit_use_double_quant": True}])
def test_4_bits_have_the_scores_of_the_same_weights_as_numbers(folder, changes):
    """Mutant: `stored_weights` left out of `evaluation_mode`: on CPUs with AVX-512 BF16 the second gradients are wrong."""
    plain: Any = quantized(folder, **FOUR_BITS, **changes).dequantize()
    model = quantized(folder, **FOUR_BITS, **changes)
    lm, expected = noiser.load(model, byte_tokenizer()), noiser.load(plain.float(), byte_tokenizer())
    for method in METHODS:
        np.testing.assert_allclose(scores(lm, method), scores(expected, method), atol=1e-6)
    check_quantized(model)


def test_a_saved_4_bit_model_loads_from_its_folder(folder, tmp_path):
    """Mutant: `by_bits` left out: transformers knows `bitsandbytes` by the bits only."""
    model = quantized(folder, **FOUR_BITS)
    model.save_pretrained(tmp_path / "four")
    byte_tokenizer().save_pretrained(tmp_path / "four")
    np.testing.assert_allclose(scores(noiser.load(tmp_path / "four"), "occlusion"), scores(model, "occlusion"), atol=1e-6)


def test_an_adapter_on_a_4_bit_base(folder, tmp_path):
    """Mutant: `add_adapter` not called. The oracle is the adapter on the base as numbers."""
    base = quantized(folder, **FOUR_BITS)
    base.save_pretrained(tmp_path / "four")
    byte_tokenizer().save_pretrained(tmp_path / "four")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    plain: Any = quantized(folder, **FOUR_BITS).dequantize()
    adapted: Any = peft.get_peft_model(plain.float(), config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    lm = noiser.load(tmp_path / "four", adapter=tmp_path / "adapter")
    for method in METHODS:
        np.testing.assert_allclose(scores(lm, method), scores(adapted.merge_and_unload(), method), atol=1e-5)


def test_8_bits_without_a_threshold_run_with_a_warning(folder, caplog):
    """Mutant: `check_quantized` returns no warning; `_News` lets everything pass."""
    model = quantized(folder, load_in_8bit=True, llm_int8_threshold=0.0)
    lm = noiser.load(model, byte_tokenizer())
    result = noiser.attribute(lm, "the cat", "occlusion", target=70)
    assert result.notes["warnings"] == [ROUNDED]
    whole = noiser.attribute(noiser.LanguageModel(model, byte_tokenizer(), prefix=False), "the cat", "occlusion", target=70)
    np.testing.assert_allclose(result.scores, whole.scores, atol=1e-5)
    assert "cast" not in caplog.text
    with pytest.raises(ModelError, match=r"llm_int8_threshold=6"):
        noiser.load(quantized(folder, load_in_8bit=True), byte_tokenizer())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_gptq_and_awq_have_the_scores_of_the_same_weights_as_numbers(folder, kind):
    """Mutant: `not` left out before `AutoHfQuantizer.supports_quant_method`. The kernels of gptqmodel round to 16 bits."""
    pytest.importorskip("gptqmodel")
    expected = noiser.load(pack(folder, kind), byte_tokenizer())
    lm = noiser.load(folder)
    for method in METHODS:
        exact = scores(expected, method)
        np.testing.assert_allclose(scores(lm, method), exact, atol=0.01 * abs(exact).max())


def change_config(folder, quantization):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": quantization}))


def pack(folder, kind):
    """Quantize the folder's model to 4 bits by rounding to the nearest. Returns the model with the rounded weights as numbers."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tensors = {}
    for name, weight in model.state_dict().items():
        if not name.endswith("_proj.weight"):
            tensors[name] = weight.clone()
            continue
        codes, scales = rounded(weight)
        weight.copy_((codes - 8) * scales.repeat_interleave(32, 1))
        key = name.removesuffix("weight")
        zeros = torch.full((scales.shape[1], len(weight)), 8 - (kind == "gptq"))
        order = range(8) if kind == "gptq" else (0, 2, 4, 6, 1, 3, 5, 7)
        tensors[f"{key}qweight"] = eight_in_one(codes, order, rows=kind == "gptq")
        tensors |= {f"{key}qzeros": eight_in_one(zeros.T, order), f"{key}scales": scales.T.half()}
        if kind == "gptq":
            tensors[f"{key}g_idx"] = torch.arange(weight.shape[1], dtype=torch.int32) // 32
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    own = {"desc_act": False, "sym": True} if kind == "gptq" else {"zero_point": True, "version": "gemm"}
    change_config(folder, {"quant_method": kind, "bits": 4, "group_size": 32, **own})
    return model


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes from 0 to 15, [out, in], and a scale for each 32 of them, [out, in / 32]."""
    groups = weight.unflatten(1, (-1, 32))
    scales = (groups.abs().amax(-1) / 7).half().float()
    return ((groups / scales[..., None]).round().clamp(-8, 7) + 8).flatten(1).int(), scales


def eight_in_one(codes: Tensor, order, rows=False) -> Tensor:
    """Eight codes [out, in] in one number: along `in` for rows of [in / 8, out], else along `out`, [in, out / 8]."""
    grouped = codes.T.long().unflatten(0 if rows else 1, (-1, 8))
    parts = grouped.movedim(1, -1) if rows else grouped
    packed = sum(parts[..., place] << (4 * slot) for slot, place in enumerate(order))
    assert isinstance(packed, Tensor)
    return packed.where(packed < 2**31, packed - 2**32).int()
