"""Interactions of units: a product of two, a game written out, shapiq's estimate, and what is said of it.

Mutants caught, each run: the sign of the interactions turned; `~present` for `present`; the seed left out of the
generator's key; an estimate where all sets could be run, or no warning with it; a token where a word was to be taken out; a question
with several targets of which the first is explained.
"""

import numpy as np
import pytest
import torch

import noiser
from noiser import errors
from noiser.errors import MissingExtraError, OptionError
from tests.conftest import tiny
from tests.toys import LinearLM, PairLM

pytest.importorskip("shapiq")

IDS = (0, 1, 1, 0, 1)
PROMPT = (7, 200, 31, 150, 31, 99)


def first_logit(logits):
    return logits[0]


@pytest.fixture(scope="module")
def llama(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer)


def parts(model):
    return (model.slope * model.embedding(torch.tensor(IDS)).detach()).sum(-1).numpy()


@torch.no_grad()
def value(lm, ids, target, present):
    """The target's probability with only these tokens, by a whole forward pass."""
    embeds = lm.model.get_input_embeddings()(torch.tensor([ids])) * torch.tensor(present, dtype=torch.float32)[None, :, None]
    return float(lm.model(inputs_embeds=embeds).logits[0, -1].double().softmax(-1)[target])


def test_a_product_of_two_tokens_is_their_interaction_and_all_others_are_0(tokenizer):
    model = PairLM(len(IDS))
    found = noiser.interactions(noiser.LanguageModel(model, tokenizer), IDS, first_logit, unit="token")
    product = parts(model)[0] * parts(model)[1]
    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 0] = product
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    np.testing.assert_allclose(found.shapley, [product / 2, product / 2, 0, 0, 0], atol=1e-6)
    (first, *_) = found.strongest(3)
    assert (first.first, first.second) == (0, 1)
    assert first.value == pytest.approx(product, abs=1e-6)
    assert (found.notes["approximator"], found.notes["coalitions"], found.seed, found.notes["warnings"]) == ("exact", 32, None, [])


def test_without_interactions_only_the_shapley_values_remain(tokenizer):
    model = LinearLM(len(IDS))
    found = noiser.interactions(noiser.LanguageModel(model, tokenizer), IDS, first_logit, unit="token")
    assert np.abs(found.values).max() < 1e-5
    np.testing.assert_allclose(found.shapley, parts(model), atol=1e-5)


def test_the_shapley_values_are_those_of_the_method(llama):
    found = noiser.interactions(llama, PROMPT, 17, unit="token")
    np.testing.assert_allclose(found.shapley, noiser.attribute(llama, PROMPT, "shapley", 17).scores[0], atol=1e-7)


def test_three_words_by_the_definition(llama):
    found = noiser.interactions(llama, "ab c de", unit="word")
    assert found.units.texts == ("ab", "c", "de")
    ids, target, of = found.prompt.input_ids, found.target.token_ids[0], found.units.of

    def v(*words):
        return value(llama, ids, target, [unit in words for unit in of])

    alone = v(0, 1) - v(0) - v(1) + v()
    beside = v(0, 1, 2) - v(0, 2) - v(1, 2) + v(2)
    assert found.values[0, 1] == found.values[1, 0] == pytest.approx((alone + beside) / 2, abs=1e-6)
    assert abs(alone - beside) > 1e-6
    assert found.notes["empty"] == pytest.approx(v(), abs=1e-6)
    assert found.cost.forward_tokens == 9 * len(ids), "one clean run and 8 sets"


def test_an_estimate_comes_closer_with_more_sets_and_says_what_it_is(llama):
    ids = tuple(range(40, 48))
    truth = noiser.interactions(llama, ids, 17, unit="token")
    estimates = {n: [noiser.interactions(llama, ids, 17, unit="token", samples=n, seed=s) for s in range(4)] for n in (60, 200)}
    error = {n: np.sqrt(np.mean([(found.values - truth.values) ** 2 for found in each])) for n, each in estimates.items()}
    assert error[200] < 0.6 * error[60]
    for found in estimates[200]:
        assert (found.values == found.values.T).all()
        assert found.notes["approximator"] == "SHAPIQ"
        assert found.notes["coalitions"] <= 200
        assert found.shapley.sum() == pytest.approx(truth.shapley.sum(), abs=1e-6), "they add up in an estimate too"
        (warning,) = found.notes["warnings"]
        assert "of 2^8 sets of tokens" in warning
    assert noiser.interactions(llama, ids, 17, unit="token", samples=256).notes["approximator"] == "exact"


def test_the_seed_names_the_draws(llama):
    ids = tuple(range(40, 48))
    one, again, other = (noiser.interactions(llama, ids, 17, unit="token", samples=60, seed=seed) for seed in (1, 1, 2))
    assert one.values.tobytes() == again.values.tobytes()
    assert np.abs(one.values - other.values).max() > 1e-6
    assert (one.seed, other.seed) == (1, 2)


def test_a_contrast_and_a_span_are_explained(llama):
    contrast = noiser.interactions(llama, "ab c", 17, foil=18)
    assert contrast.target.foil is not None
    span = noiser.interactions(llama, "ab c", continuation=(44, 45, 46), span=(1, 3))
    assert span.target.token_ids == (45, 46)
    assert len(span.prompt) == 5
    with pytest.raises(OptionError, match="one target; this question has 3"):
        noiser.interactions(llama, "ab c", continuation=(44, 45, 46))


def test_what_is_refused(llama, monkeypatch):
    for options, message in (
        ({"unit": "letter"}, "unit must be one of token, word"),
        ({"baseline": "mean"}, "baseline must be one of zero, unk"),
        ({"samples": 3}, "at least 4; got 3"),
        ({"samples": True}, "got True"),
        ({"quantity": "rank"}, "quantity"),
    ):
        with pytest.raises(OptionError, match=message):
            noiser.interactions(llama, "ab c", **options)
    with pytest.raises(OptionError, match="at least two units; this prompt has one word"):
        noiser.interactions(llama, "ab")
    monkeypatch.setattr(errors, "find_spec", lambda module: None if module == "shapiq" else object())
    with pytest.raises(MissingExtraError, match=r"noiser interactions needs shapiq. Type: pip install 'noiser\[shapley\]'"):
        noiser.interactions(llama, "ab c")
