"""One prompt's length never changes another's numbers, and a packing is used only as far as it was checked."""

import numpy as np
import pytest

import noiser
from noiser.lm.rotary import most_tokens
from tests.conftest import byte_tokenizer, tiny
from tests.lm.families import _probs, plain_scores, prompts

DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10_000.0}, "max_position_embeddings": 16}
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "original_max_position_embeddings": 16}
LONG = {"rope_parameters": {"rope_type": "longrope", "rope_theta": 10_000.0, **FACTORS}, "original_max_position_embeddings": 16}


def scaled(kind, seed=0):
    return tiny("llama", seed, **DYNAMIC) if kind == "dynamic" else tiny("phi3", seed, **LONG, max_position_embeddings=512)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_scales_do_not_leak(kind):
    """Alone, in both orders, and together. Mutants: `fresh_frequencies` without its hooks (dynamic), `length_class` always 0."""
    plain = {n: plain_scores(scaled(kind), prompts()[n], "occlusion") for n in (5, 12, 40, 100)}
    assert plain_differs_by_history(kind) == (kind == "dynamic"), "transformers itself remembers the longest prompt"
    for order in ((5, 100, 12, 40), (40, 12, 100, 5)):
        lm = noiser.LanguageModel(scaled(kind), byte_tokenizer())
        for among in ([[n] for n in order], [list(order)]):
            for lengths in among:
                found = noiser.attribute_many(lm, [prompts()[n] for n in lengths], "occlusion")
                for n, attribution in zip(lengths, found, strict=True):
                    assert isinstance(attribution, noiser.Attribution)
                    places, scores = plain[n]
                    np.testing.assert_allclose(attribution.scores[0][places], scores, atol=1e-4 * np.abs(scores).max() + 1e-7)


def plain_differs_by_history(kind):
    import torch

    model, ids = scaled(kind), torch.tensor([prompts()[40]])
    with torch.no_grad():
        embed = model.get_input_embeddings()
        before = _probs(model, embed(ids))
        _probs(model, embed(torch.tensor([prompts()[100]])))
        return bool((before - _probs(model, embed(ids))).abs().max() > 1e-4)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("method", ["occlusion", "input_x_gradient"])
def test_a_continuation_over_the_border_of_a_scale(kind, method):
    """Each token is explained as the next token of its own prompt. Mutant: `ForwardRequest.split` returns [self]."""
    lm, prompt = noiser.LanguageModel(scaled(kind), byte_tokenizer()), prompts()[12]
    rows = noiser.attribute(lm, prompt, method, continuation=list(prompts()[40][:8]))
    for row in range(8):
        before = (*prompt, *prompts()[40][:row])
        alone = noiser.attribute(noiser.LanguageModel(scaled(kind), byte_tokenizer()), before, method, target=prompts()[40][row])
        np.testing.assert_allclose(rows.scores[row][: len(before)], alone.scores[0], atol=1e-5 * np.abs(alone.scores).max() + 1e-8)


def test_the_model_keeps_its_frequencies():
    """Mutant: `fresh_frequencies` does not restore."""
    model = scaled("dynamic")
    noiser.attribute(noiser.LanguageModel(model, byte_tokenizer()), prompts()[100], "occlusion")
    assert model.model.rotary_emb.max_seq_len_cached == 16
    assert not model.model.rotary_emb._forward_pre_hooks


def test_a_packing_ends_where_places_count():
    """GPT-Neo's windows count places. Mutant: `capacity` returns `wanted` at once."""
    from tests.lm.family_models import build

    model = build("gpt_neo", 128)
    lm = noiser.LanguageModel(model, byte_tokenizer())
    assert lm._layout_check.capacity(40, 40) == 128
    assert lm._layout_check.capacity(100, 100) == 0
    assert noiser.attribute(lm, prompts()[40], "occlusion").notes["layout"] == "packed"
    assert noiser.attribute(lm, prompts()[100], "occlusion").notes["layout"].startswith("full: the packed layout's logits differ")


def test_what_was_checked_is_remembered(tmp_path, monkeypatch):
    """Per model and revision, in the cache, and counted apart from any attribution. Mutant: the file is never written."""
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path))
    counts, costs = [], []
    for _ in range(2):
        lm = noiser.LanguageModel(tiny("llama"), byte_tokenizer(), name="a", revision="b")
        costs.append(noiser.attribute(lm, prompts()[12], "occlusion").cost.forward_tokens)
        counts.append(lm.token_counter.check_tokens)
    other = noiser.LanguageModel(tiny("llama"), byte_tokenizer(), name="a", revision="c")
    noiser.attribute(other, prompts()[12], "occlusion")
    assert counts[0] == other.token_counter.check_tokens > counts[1] == 32
    assert costs[0] == costs[1]


def test_a_gradient_asks_for_no_check():
    """A method without rows costs no check of the layout at its own length. Mutant: the layout is chosen with the clean run."""
    lm = noiser.LanguageModel(tiny("llama", max_position_embeddings=512), byte_tokenizer())
    lm.clean([lm.prompt(prompts()[300])])
    assert lm.token_counter.check_tokens == 32


@pytest.mark.parametrize(
    ("family", "changes", "limit"),
    [("llama", {}, 64), ("llama", DYNAMIC, 128), ("gpt2", {}, 64), ("llama", {"max_position_embeddings": -1}, None)],
)
def test_the_limit_of_a_model(family, changes, limit):
    """Mutant: only max_position_embeddings is read."""
    from transformers import CONFIG_MAPPING

    from tests.conftest import COMMON, TINY

    assert most_tokens(CONFIG_MAPPING[family](**{**COMMON, **TINY[family], **changes})) == limit
