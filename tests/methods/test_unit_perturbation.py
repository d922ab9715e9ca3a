"""Whole words and sentences perturbed at once, against plain full forwards.

Mutants caught: a unit's first token only; the same noise vector on each of a word's tokens.
"""

import numpy as np
import pytest
import torch
from benchmarks.plain import bisected

import noiser
from noiser.errors import OptionError
from noiser.methods.noiser.noise import paper_noise
from noiser.text.prompt import Prompt
from tests.conftest import byte_tokenizer, tiny

WORDS = "one two, three: four"
LETTERS = "a b c d e"
SENTENCES = "It is wet. Rain fell all day. He ran home. What will he do?"
METHODS = {"noiser": {"search": "exact"}, "occlusion": {}, "lime": {"samples": 40}}


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3_text"])
def lm(request, tokenizer):
    return noiser.LanguageModel(tiny(request.param), tokenizer)


@pytest.fixture(scope="module")
def llama(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer)


@torch.no_grad()
def clean_and(lm, prompt, members, shift):
    """The next token's distribution, and its mean over rows in which `shift` [rows, members, dim] is added to these tokens."""
    embeds = lm.model.get_input_embeddings()(torch.tensor([prompt.input_ids]))
    rows = embeds.repeat(len(shift), 1, 1)
    rows[:, list(members)] += shift
    both = [lm.model(inputs_embeds=each).logits[:, -1].double().softmax(-1).mean(0) for each in (embeds, rows)]
    return both[0], both[1]


def embeds_of(lm, prompt):
    return lm.model.get_input_embeddings()(torch.tensor([prompt.input_ids]))[0].detach()


@pytest.mark.parametrize("method", METHODS)
def test_where_each_word_is_a_token_words_are_tokens(llama, method):
    ids = llama.prompt(LETTERS.replace(" ", "")).input_ids
    apart = Prompt(LETTERS, ids, tuple("abcde"), (False,) * 5, tuple((2 * i, 2 * i + 1) for i in range(5)))
    token, word = (noiser.attribute(llama, apart, method, unit=unit, **METHODS[method]) for unit in ("token", "word"))
    assert word.by("word").units.texts == tuple("abcde")
    np.testing.assert_array_equal(token.scores, word.scores)
    assert (token.unit, word.unit) == ("token", "word")
    assert np.abs(token.scores).max() > 1e-4


def test_occlusion_of_words_by_plain_forwards(lm):
    found = noiser.attribute(lm, WORDS, "occlusion", unit="word")
    by_word = found.by("word")
    embeds, members = embeds_of(lm, found.prompt), by_word.units.members
    assert [len(each) for each in members] == [3, 4, 1, 6, 1, 5]
    for word, tokens in enumerate(members):
        clean, without = clean_and(lm, found.prompt, tokens, -embeds[list(tokens)][None])
        target = found.target.token_ids[0]
        assert by_word.scores[0, word] == pytest.approx(float(clean[target] - without[target]), abs=1e-6)
        np.testing.assert_allclose(found.scores[0, list(tokens)], by_word.scores[0, word] / len(tokens), atol=1e-12)
    single = noiser.attribute(lm, WORDS, "occlusion").by("word")
    assert np.abs(single.scores - by_word.scores).max() > 1e-3, "tokens taken away together must differ from one by one"


def test_special_tokens_are_left_alone(llama):
    ids = (1, *llama.prompt(WORDS).input_ids, 2)
    for method, options in METHODS.items():
        found = noiser.attribute(llama, ids, method, unit="word", **options)
        assert found.prompt.special[0]
        assert found.prompt.special[-1]
        assert found.scores[0, 0] == found.scores[0, -1] == 0
        assert (found.scores[0, 1:-1] != 0).all()
    with pytest.raises(OptionError, match="no words to perturb"):
        noiser.attribute(llama, (1, 2), "occlusion", unit="word")


def test_lime_of_words_by_plain_forwards(llama):
    """Two words, many samples, no penalty: least squares over the four subsets, weighted by how often each was drawn."""
    found = noiser.attribute(llama, "ab cd", "lime", unit="word", samples=4000, alpha=0, width=100.0)
    embeds = embeds_of(llama, found.prompt)
    first, second = found.by("word").units.members
    gone = {(): [], (0,): first, (1,): second, (0, 1): (*first, *second)}
    target = found.target.token_ids[0]
    values = {which: float(clean_and(llama, found.prompt, t, -embeds[list(t)][None])[1][target]) for which, t in gone.items()}
    whole, one, other, none = (values[which] for which in ((), (0,), (1,), (0, 1)))
    main = [(whole - one + other - none) / 2, (whole - other + one - none) / 2]
    np.testing.assert_allclose(found.by("word").scores[0], main, atol=0.05 * max(map(abs, main)))
    assert len(set(np.round(found.scores[0], 12))) == 2, "a unit's score is divided evenly"


@pytest.mark.parametrize("search", ["exact", "fast"])
def test_noiser_on_words_is_what_separate_bisections_over_words_give(lm, search):
    found = noiser.attribute(lm, WORDS, unit="word", search=search, seed=1)
    prompt, members = found.prompt, found.by("word").units.members
    draws = torch.stack([paper_noise(10, 64, 1, prompt.input_ids, offset) for offset in range(max(map(len, members)))], dim=1)
    prediction = found.target.token_ids[0]

    def noisy(tokens, k):
        return clean_and(lm, prompt, tokens, k * draws[:, : len(tokens)])[1]

    ks = [bisected(lambda k, tokens=tokens: int(noisy(tokens, k).argmax()) != prediction, 10) for tokens in members]
    if search == "exact" or found.notes["non_monotone"] == 0:
        assert found.notes["k"] == min(ks)
        assert 0 < min(ks) < 1023 / 1024
    expected = [found.target.prob - float(noisy(tokens, found.notes["k"])[prediction]) for tokens in members]
    np.testing.assert_allclose(found.by("word").scores[0], expected, atol=1e-5)
    alone = noiser.attribute(lm, WORDS, search="exact", seed=1)
    assert alone.notes["k"] != found.notes["k"], "a word must be more than its letters"


def test_fewer_units_cost_less(llama):
    assert 55 <= len(llama.prompt(SENTENCES)) <= 64
    token, sentence = (noiser.attribute(llama, SENTENCES, unit=unit) for unit in ("token", "sentence"))
    assert len(sentence.by("sentence").units.texts) == 4
    assert sentence.cost.forward_tokens < token.cost.forward_tokens / 2


def test_official_disturbs_tokens_only(llama):
    with pytest.raises(OptionError, match="perturbs single tokens"):
        noiser.attribute(llama, WORDS, variant="official", unit="word")


def test_a_tokenizer_that_adds_its_own(llama):
    """Special tokens that the tokenizer adds to text belong to no word."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    found = noiser.attribute(noiser.LanguageModel(tiny("llama"), tokenizer), WORDS, "occlusion", unit="word")
    assert found.prompt.input_ids[0] == 1
    assert found.scores[0, 0] == 0
    assert found.by("word").rest[0] == 0
