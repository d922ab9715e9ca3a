"""Attention as explanation against the weights that transformers itself returns, multiplied by hand.

Mutants caught: the first layer instead of the last; the layers multiplied in the wrong order; the identity left out; one head
instead of their mean; eager attention not switched back.
"""

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import ModelError
from tests.conftest import tiny

PROMPT = (7, 200, 31, 150, 31, 99, 12, 250, 77, 5)
FAMILIES = ["llama", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "olmo2", "gpt_neox", "gpt2", "opt", "bloom"]


def weights(family):
    """Layers [seq, seq], mean over heads, from a second model with the same weights that attends eagerly."""
    model = tiny(family, attn_implementation="eager")
    with torch.no_grad():
        found = model(input_ids=torch.tensor([PROMPT]), output_attentions=True).attentions
    return [layer[0].double().mean(0).numpy() for layer in found]


def implementations(model):
    return [module.config._attn_implementation for module in model.modules() if hasattr(module, "config")]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_are_what_the_weights_say(family, tokenizer):
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    before = implementations(lm.model)
    last, rolled = (noiser.attribute(lm, PROMPT, method) for method in ("last_attention", "attention_rollout"))
    first, second = weights(family)
    half = np.eye(len(PROMPT)) / 2
    np.testing.assert_allclose(last.scores[0], second[-1], atol=1e-6)
    np.testing.assert_allclose(rolled.scores[0], ((second / 2 + half) @ (first / 2 + half))[-1], atol=1e-6)
    assert last.scores.sum() == pytest.approx(1, abs=1e-5)
    assert rolled.scores.sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(first[-1] - second[-1]).max() > 1e-3, "the layers must differ"
    assert implementations(lm.model) == before
    assert not any(module._forward_hooks for module in lm.model.modules())


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("method", ["last_attention", "attention_rollout"])
def test_however_the_model_was_loaded(family, method, tokenizer):
    models = {kind: tiny(family, attn_implementation=kind) for kind in ("eager", "sdpa")}
    eager, sdpa = (noiser.attribute(noiser.LanguageModel(model, tokenizer), PROMPT, method) for model in models.values())
    np.testing.assert_allclose(eager.scores, sdpa.scores, atol=1e-6)
    for kind, model in models.items():
        assert set(implementations(model)) == {kind}


@pytest.mark.parametrize("method", ["last_attention", "attention_rollout"])
def test_a_model_that_keeps_its_weights_is_refused_with_the_remedy(method, tokenizer):
    model = tiny("falcon")
    before = implementations(model)
    with pytest.raises(ModelError, match="attn_implementation='eager'"):
        noiser.attribute(noiser.LanguageModel(model, tokenizer), PROMPT, method)
    assert implementations(model) == before
    remedied = noiser.LanguageModel(tiny("falcon", attn_implementation="eager"), tokenizer)
    first, second = weights("falcon")
    half = np.eye(len(PROMPT)) / 2
    expected = second[-1] if method == "last_attention" else ((second / 2 + half) @ (first / 2 + half))[-1]
    np.testing.assert_allclose(noiser.attribute(remedied, PROMPT, method).scores[0], expected, atol=1e-6)


@pytest.mark.parametrize("method", ["last_attention", "attention_rollout"])
def test_official_softmaxes_the_weights_once_more(method, tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    paper, official = (noiser.attribute(lm, PROMPT, method, variant=variant).scores[0] for variant in ("paper", "official"))
    np.testing.assert_allclose(official, torch.tensor(paper).softmax(0), atol=1e-9)
    assert np.ptp(official) < np.ptp(paper), "it flattens"


def test_the_target_has_no_say_and_a_foil_is_told_so(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    own, other, contrast = (noiser.attribute(lm, PROMPT, "last_attention", **given) for given in ({}, {"target": 17}, {"foil": 9}))
    np.testing.assert_array_equal(own.scores, other.scores)
    np.testing.assert_array_equal(own.scores, contrast.scores)
    assert "does not depend on the target" in contrast.notes["warnings"][0]


def test_a_whole_answer_gets_the_mean_over_the_positions_that_predict_it(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    found = noiser.attribute(lm, PROMPT[:8], "last_attention", target=(77, 5, 3))
    second = weights("llama")[1]
    np.testing.assert_allclose(found.scores[0], second[7:10, :8].mean(0), atol=1e-6)
