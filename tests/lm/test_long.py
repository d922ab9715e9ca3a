"""Long prompts: rows run in blocks, no mask has the square of the prompt, and what does not fit is refused with its bytes.

Mutants caught: a block that sees the rest of its row; a block that forgets those before it; the wrong row's end read where two ends are
in different blocks; `growing` without the prefix; a mask of all keys at once; the gradient's bytes without the layers.
"""

import numpy as np
import pytest
import torch

import noiser
import noiser.lm.forward as forward
import noiser.lm.memory as memory
from noiser.errors import DeviceMemoryError
from noiser.lm.layout_check import LONG
from tests.conftest import tiny

TEXT = "0123456789" * 4


@pytest.fixture
def lm(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer)


def run(lm, method, **question):
    return noiser.attribute(lm, TEXT, method, **question).scores


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral"])
@pytest.mark.parametrize("method", ["occlusion", "noiser:bound=none+samples=3", "lime:samples=12", "integrated_gradients:steps=3"])
def test_blocks_change_nothing(family, method, tokenizer, monkeypatch):
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    expected = run(lm, method)
    monkeypatch.setitem(forward.MASK_ELEMENTS, "cpu", 200)
    np.testing.assert_allclose(run(lm, method), expected, atol=2e-6)


def test_ends_in_different_blocks(lm, monkeypatch):
    """A target of several tokens is read at several ends."""
    question = {"continuation": "abcdefgh", "span": (0, 8)}
    expected = run(lm, "occlusion", **question)
    monkeypatch.setitem(forward.MASK_ELEMENTS, "cpu", 200)
    np.testing.assert_allclose(run(lm, "occlusion", **question), expected, atol=2e-5)


def test_no_mask_has_the_square_of_the_prompt(lm, monkeypatch):
    sizes = []

    def note(_model, _args, kwargs):
        if kwargs.get("attention_mask") is not None:
            sizes.append(kwargs["attention_mask"][0].numel())

    lm.model.register_forward_pre_hook(note, with_kwargs=True)
    run(lm, "occlusion")
    assert max(sizes) > 2000, "rows are long enough for this test"
    sizes.clear()
    monkeypatch.setitem(forward.MASK_ELEMENTS, "cpu", 2000)
    run(lm, "occlusion")
    assert max(sizes) <= 2000


def test_the_check_of_a_long_prompt_costs_little(tokenizer):
    lm = noiser.LanguageModel(tiny("llama", max_position_embeddings=4 * LONG), tokenizer)
    assert lm.layout(lm.prompt("0123456789" * 150))[0].name == "packed"
    assert lm.token_counter.check_tokens < 4 * 2 * LONG


def test_the_check_of_a_long_prompt_finds_a_model_that_counts_places(tokenizer):
    """Positions are taken from the place in the sequence, as by a bias of the model's own: right alone, wrong behind another suffix."""
    model = tiny("llama", max_position_embeddings=4 * LONG)

    def from_places(_module, args, kwargs):
        ids = kwargs["position_ids"]
        return args, kwargs | {"position_ids": ids[:, :1] + torch.arange(ids.shape[1])}

    model.model.rotary_emb.register_forward_pre_hook(from_places, with_kwargs=True)
    lm = noiser.LanguageModel(model, tokenizer)
    layout, reason = lm.layout(lm.prompt("0123456789" * 150))
    assert layout.name == "full"
    assert "differ" in reason


@pytest.fixture
def little_memory(monkeypatch):
    """A machine with this many bytes free."""

    def set_free(count):
        monkeypatch.setattr(memory, "free_bytes", lambda _device: count)

    return set_free


def test_a_gradient_that_does_not_fit_is_refused_with_its_bytes(lm, little_memory):
    needed = memory.gradient_bytes(lm.model, len(lm.prompt(TEXT)))
    little_memory(needed - 1)
    with pytest.raises(DeviceMemoryError, match=r"gradient of one row of \d+ tokens takes about .* are free: use a method without it"):
        noiser.attribute(lm, TEXT, "input_x_gradient")
    noiser.attribute(lm, TEXT, "occlusion")
    little_memory(needed)
    noiser.attribute(lm, TEXT, "input_x_gradient")


def test_the_search_goes_on_without_the_gradient(lm, little_memory):
    """k_min takes a gradient as a hint only."""
    expected = noiser.attribute(lm, TEXT, "noiser:samples=3")
    little_memory(memory.gradient_bytes(lm.model, len(lm.prompt(TEXT))) - 1)
    found = noiser.attribute(lm, TEXT, "noiser:samples=3")
    assert found.notes["k"] == pytest.approx(expected.notes["k"], rel=0.02)


def test_attention_weights_that_do_not_fit_are_refused(lm, little_memory):
    little_memory(memory.attention_bytes(lm.model, len(lm.prompt(TEXT))) - 1)
    with pytest.raises(DeviceMemoryError, match=r"attention weights of \d+ tokens take about"):
        noiser.attribute(lm, TEXT, "attention_rollout")


def test_a_prompt_that_does_not_fit_is_refused(lm, little_memory):
    little_memory(memory.clean_bytes(lm.model, len(lm.prompt(TEXT))) - 1)
    with pytest.raises(DeviceMemoryError, match=r"a run of .* tokens takes about"):
        noiser.attribute(lm, TEXT, "occlusion")


def test_grouped_query_attention_keeps_fewer_keys(tokenizer):
    """By hand: 2 layers x keys and values x heads x head size x 4 bytes."""
    one, four = (tiny("llama", num_attention_heads=4, num_key_value_heads=heads, hidden_size=32) for heads in (1, 4))
    layers = one.config.num_hidden_layers
    assert memory.clean_bytes(four, 100) - memory.clean_bytes(one, 100) == 100 * layers * 2 * 3 * 8 * 4


def test_the_stated_peak(tokenizer):
    """It is at least what the process holds, and grows with the prompt."""
    lm = noiser.LanguageModel(tiny("llama", max_position_embeddings=128), tokenizer)
    short, long = (noiser.estimate(lm, text, "occlusion") for text in (TEXT, TEXT * 2))
    assert 0 < short.peak_bytes < long.peak_bytes


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_generation_with_a_cache(family, tokenizer):
    """The plain algorithm: the whole sequence again for each token. The cache saves tokens, and changes none of the text."""
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    prompt, ids = lm.prompt(TEXT), []
    for _ in range(5):
        ids.append(lm.clean([lm.tokens.extended(prompt, ids)])[0].prediction)
    before = lm.token_counter.forward_tokens
    assert lm.generate(prompt, 5) == tuple(ids)
    assert lm.token_counter.forward_tokens - before == len(prompt) + 4
