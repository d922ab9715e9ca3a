"""Tokens that the model writes in the places of those that are left out. The plain algorithm is in test_hard_metrics.py.

Mutants caught, each run: special tokens drawn, or replaced; the distribution one token too early (in test_hard_metrics.py).
"""

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import OptionError
from noiser.lm.requests import Steps
from noiser.lm.scheduler import run_one
from noiser.lm.target import Question, resolve_target
from noiser.metrics.infill import infilled
from noiser.metrics.sample import MetricContext
from noiser.rng import generator
from tests.conftest import byte_tokenizer, tiny

IDS = (40, 200, 31, 150, 99, 60)
TEXTS = ("The Eiffel Tower is located in", "My sister plays the violin and")


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer())


def versions(lm, prompt, kept, draws=4, seed=0):
    """The ids of each version of a prompt."""

    def steps() -> Steps:
        ((clean, objective),) = yield from resolve_target(lm.tokens, lm.prompt(prompt), Question(), None)
        (found,) = yield from infilled(MetricContext(lm, clean, objective), [np.asarray(kept, dtype=bool)], draws, seed)
        return found

    return run_one(lm, steps())[0]


def test_kept_tokens_stay_and_the_draws_differ(lm):
    kept = [True, False, False, True, False, True]
    found = versions(lm, IDS, kept, draws=8)
    assert all(np.array_equal(np.array(ids)[kept], np.array(IDS)[kept]) for ids in found)
    assert len(set(found)) > 4
    assert found == versions(lm, IDS, kept, draws=8)
    assert found[:2] == versions(lm, IDS, kept, draws=2), "more draws change no earlier one"
    assert found != versions(lm, IDS, kept, draws=8, seed=1)
    drawn = np.array(versions(lm, IDS, [False] * 6, draws=40))
    assert min(len(set(column)) for column in drawn.T) > 10, "each draw has a number of its own"


def test_what_stands_to_the_right_does_not_matter(lm):
    kept = [True, False, False, True, True, True]
    assert generator(0, IDS, "infill", 0).random() != generator(0, IDS[:5], "infill", 0).random(), "draws are the prompt's own"
    shares = versions(lm, IDS, kept)
    alone = versions(lm, IDS, [True, False, False, False, False, False])
    assert [ids[:3] for ids in shares] == [ids[:3] for ids in alone]


def test_special_tokens_stay_and_none_is_drawn():
    """A model that would nearly always say a special token."""
    model = tiny("llama", tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[:3] = 50 * model.lm_head.weight[100]
    prompt = (1, *IDS)
    found = versions(noiser.LanguageModel(model, byte_tokenizer()), prompt, [False] * 7, draws=20)
    assert {ids[0] for ids in found} == {1}
    assert min(min(ids[1:]) for ids in found) > 2


def test_a_first_token_needs_one_that_begins_a_text(lm):
    bare = noiser.LanguageModel(lm.model, byte_tokenizer(bos_token=None, eos_token=None))
    assert versions(bare, IDS, [True, False, True, True, True, True])
    with pytest.raises(OptionError, match="this tokenizer has none"):
        versions(bare, IDS, [False, True, True, True, True, True])


def test_infill_is_nearer_to_the_models_own_text_than_tokens_of_other_prompts(smol):
    """The perplexity of the rewritten prompts, with two of three tokens left out."""
    losses = {"infill": [], "resample": []}
    for text in TEXTS:
        ids = smol.prompt(text).input_ids
        kept = np.arange(len(ids)) % 3 == 0
        pool = [token for other in TEXTS if other != text for token in smol.prompt(other).input_ids]
        places = [generator(0, ids, "resample", draw).integers(len(pool), size=len(ids)) for draw in range(2)]
        strangers = [[i if k else pool[place] for i, k, place in zip(ids, kept, drawn, strict=True)] for drawn in places]
        for operator, rewritten in (("infill", versions(smol, text, kept, draws=2)), ("resample", strangers)):
            losses[operator] += [loss(smol.model, list(each)) for each in rewritten]
    perplexity = {operator: np.exp(np.mean(each)) for operator, each in losses.items()}
    print(perplexity)
    assert perplexity["infill"] < perplexity["resample"] / 4


def loss(model, ids):
    """The mean loss of a text's tokens, from its second."""
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss)
