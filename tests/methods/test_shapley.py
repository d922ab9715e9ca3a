"""Shapley values of tokens and units: models with a known answer, shapiq on plain forward passes, and the choice of a sampler.

Mutants caught, each run: `~present` for `present`; a unit's value not divided among its tokens; the seed left out of the generator's key;
`auto` that ignores `samples`; too few samples not raised; the efficiency gap without the value of no unit.
"""

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import OptionError
from noiser.methods.shapley import choose_sampler
from tests.conftest import tiny
from tests.toys import LinearLM, PairLM

IDS = (0, 1, 1, 0, 1)
PROMPT = (7, 200, 31, 150, 31, 99)
WORDS = "one two, three: four"
SAMPLERS = ["exact", "permutation", "leverage"]


def first_logit(logits):
    return logits[0]


@pytest.fixture(scope="module")
def llama(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer)


def plain_game(lm, ids, target):
    """The target's probability when only some tokens are present, by a whole forward pass for each coalition."""
    embeds = lm.model.get_input_embeddings()(torch.tensor([ids])).detach()

    @torch.no_grad()
    def game(coalitions):
        rows = torch.from_numpy(np.asarray(coalitions, dtype=np.float32))
        logits = lm.model(inputs_embeds=embeds * rows[..., None]).logits[:, -1]
        return logits.double().softmax(-1)[:, target].numpy()

    return game


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_on_a_linear_model_the_values_are_the_weights(tokenizer, sampler, seed):
    model = LinearLM(len(IDS), seed)
    weights = (model.slope * model.embedding(torch.tensor(IDS)).detach()).sum(-1).numpy()
    found = noiser.attribute(noiser.LanguageModel(model, tokenizer), IDS, "shapley", first_logit, sampler=sampler)
    np.testing.assert_allclose(found.scores[0], weights, atol=1e-5)
    assert found.stderr is None or found.stderr.max() < 1e-5
    assert abs(found.notes["efficiency_gap"]) < 1e-5
    assert found.notes["sampler"] == sampler


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_two_tokens_that_matter_only_together_share_evenly_and_the_others_get_0(tokenizer, sampler):
    model = PairLM(len(IDS))
    parts = (model.slope * model.embedding(torch.tensor(IDS)).detach()).sum(-1).numpy()
    found = noiser.attribute(noiser.LanguageModel(model, tokenizer), IDS, "shapley", first_logit, sampler=sampler)
    product = parts[0] * parts[1]
    assert abs(product) > 0.5
    np.testing.assert_allclose(found.scores[0], [product / 2, product / 2, 0, 0, 0], atol=1e-5)
    assert found.scores[0, 0] == pytest.approx(found.scores[0, 1], abs=1e-7)
    if sampler != "leverage":
        assert (found.scores[0, 2:] == 0).all()
    if sampler == "permutation":
        assert (found.stderr[0, 2:] == 0).all(), "a token that the model ignores has no error"


@pytest.mark.parametrize("prompt", [PROMPT, [70], [70, 9]])
def test_exact_values_are_shapiqs(llama, prompt):
    shapiq = pytest.importorskip("shapiq")
    found = noiser.attribute(llama, prompt, "shapley", 17)
    game = plain_game(llama, list(prompt), 17)
    theirs = shapiq.ExactComputer(game, len(prompt))("SV", 1)
    np.testing.assert_allclose(found.scores[0], [theirs[(token,)] for token in range(len(prompt))], atol=1e-6)
    empty, whole = game(np.array([[0] * len(prompt), [1] * len(prompt)]))
    assert found.scores.sum() == pytest.approx(whole - empty, abs=1e-6)
    assert found.notes["empty"] == pytest.approx(empty, abs=1e-6)
    assert abs(found.notes["efficiency_gap"]) < 1e-6
    assert (found.notes["sampler"], found.notes["coalitions"], found.stderr) == ("exact", 2 ** len(prompt), None)


@pytest.mark.parametrize("sampler", ["permutation", "leverage"])
def test_samplers_come_closer_with_more_samples_and_say_how_far_they_are(llama, sampler):
    truth = noiser.attribute(llama, PROMPT, "shapley", 17).scores[0]
    runs = {n: [noiser.attribute(llama, PROMPT, "shapley", 17, sampler=sampler, samples=n, seed=s) for s in range(6)] for n in (24, 60)}
    error = {n: np.sqrt(np.mean([(found.scores[0] - truth) ** 2 for found in each])) for n, each in runs.items()}
    said = {n: np.sqrt(np.mean([found.stderr**2 for found in each])) for n, each in runs.items()}
    assert error[60] < 0.8 * error[24]
    assert all(0.4 < said[n] / error[n] < 2.5 for n in (24, 60))
    assert np.abs(truth).max() > 2 * error[60]
    for found in runs[60]:
        assert abs(found.notes["efficiency_gap"]) < 1e-6
        assert found.notes["coalitions"] <= 60
        assert not found.notes["warnings"]


@pytest.mark.parametrize("options", [{}, {"sampler": "permutation"}, {"sampler": "leverage"}])
def test_words_are_players_and_their_value_is_divided_among_their_tokens(llama, options):
    found = noiser.attribute(llama, WORDS, "shapley", unit="word", **options)
    words = found.by("word")
    members = words.units.members
    assert [len(each) for each in members] == [3, 4, 1, 6, 1, 5]
    game = plain_game(llama, found.prompt.input_ids, found.target.token_ids[0])
    of = np.array(words.units.of)
    whole, empty = game(np.ones((1, len(of)))), game(np.zeros((1, len(of))))
    assert words.scores.sum() == pytest.approx(float(whole[0] - empty[0]), abs=1e-6)
    for word, tokens in enumerate(members):
        np.testing.assert_allclose(found.scores[0, list(tokens)], words.scores[0, word] / len(tokens), atol=1e-12)
        assert found.stderr is None or len(set(found.stderr[0, list(tokens)])) == 1
    if not options:
        others = np.array([[word not in (0,) for word in of]], dtype=float)
        assert words.scores[0, 0] != pytest.approx(float(whole[0] - game(others)[0]), abs=1e-4), "that would be occlusion"


def test_special_tokens_are_no_units_of_text(llama):
    found = noiser.attribute(llama, (1, *llama.prompt("ab cd").input_ids, 2), "shapley", unit="word")
    assert found.scores[0, 0] == found.scores[0, -1] == 0
    assert found.notes["coalitions"] == 4


@pytest.mark.parametrize("sampler", ["permutation", "leverage"])
def test_the_seed_names_the_draws(llama, sampler):
    one, again, other = (noiser.attribute(llama, PROMPT, "shapley", sampler=sampler, samples=26, seed=seed) for seed in (3, 3, 4))
    assert one.to_dict()["scores"] == again.to_dict()["scores"]
    assert one.stderr.tobytes() == again.stderr.tobytes()
    assert np.abs(one.scores - other.scores).max() > 1e-4


def test_prompts_beside_it_and_small_batches_change_nothing(llama):
    prompts = [PROMPT, (120, 60, 30, 15, 7, 3, 1, 40), tuple(range(50, 68))]
    alone = [noiser.attribute(llama, prompt, "shapley", samples=90) for prompt in prompts]
    assert [found.notes["sampler"] for found in alone] == ["exact", "permutation", "leverage"]
    small = noiser.LanguageModel(llama.model, llama.tokenizer, token_budget=64)
    for lm in (llama, small):
        for found, expected in zip(noiser.attribute_many(lm, prompts, "shapley", samples=90), alone, strict=True):
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
            if expected.stderr is not None:
                np.testing.assert_allclose(found.stderr, expected.stderr, atol=1e-6)


def test_which_sampler_auto_is():
    chosen = {players: choose_sampler("auto", None, players) for players in (1, 12, 13, 16, 17, 500)}
    assert chosen == {1: "exact", 12: "exact", 13: "permutation", 16: "permutation", 17: "leverage", 500: "leverage"}
    assert (choose_sampler("auto", 4096, 12), choose_sampler("auto", 4095, 12)) == ("exact", "permutation")
    assert choose_sampler("leverage", None, 3) == "leverage"
    with pytest.raises(OptionError, match="at most 20 units, 2\\^20 rows; the prompt has 21"):
        choose_sampler("exact", None, 21)


def test_too_few_samples_are_raised_and_that_is_said(llama):
    found = noiser.attribute(llama, PROMPT, "shapley", sampler="permutation", samples=4)
    assert found.notes["coalitions"] == 2 + 2 * 2 * 5, "two pairs of orders: enough for a standard error"
    assert found.stderr is not None
    (warning,) = found.notes["warnings"]
    assert "4 samples are too few" in warning
    assert "22 were run" in warning
