"""Noise as large as what it replaces: scale-free bounds, pairs, draws until a tolerance, and standard errors, against closed forms.

Mutants caught, each run: special tokens counted into the RMS; the RMS of the whole prompt in `replace`; all tokens between a unit's
tokens replaced; -n left out of a pair, or not next to n; pairs counted as two independent draws; `ddof=0`; the draws of a later round
starting again at the first; the loop ending at the first look; `tolerance` of the smallest score; stderr not divided among a unit's tokens.
"""

import numpy as np
import pytest
import torch
from benchmarks.plain import embed, perturbed

import noiser
from noiser.methods.noiser.noise import official_noise, paper_noise, root_mean_square
from noiser.methods.uncertainty import stderr_of_mean
from tests.conftest import tiny
from tests.toys import DIM, LinearLM, ToyLM

PROMPT = (7, 200, 31, 150, 31, 99)
WEIGHT = [0.1, 1.0, 0.0, 0.4]
IDS = (0, 1, 0, 1)


@pytest.fixture(scope="module")
def llama(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer)


def first_logit(logits):
    return logits[0]


class OddLM(ToyLM):
    """All embeddings are 0 and token 0's logit is a sum over all elements: the negative of the noise gives its negative, to the bit."""

    def answer(self, embeds):
        first = embeds.sum(-1).sum(-1)
        return torch.stack([first, torch.zeros_like(first)], dim=-1)


@torch.no_grad()
def plain_drops(lm, ids, rows_of):
    """The drop in P(prediction) for each token and row; `rows_of(embeds, token)` gives the rows of embeddings [rows, seq, dim]."""
    embeds = embed(lm.model, ids)
    clean = lm.model(inputs_embeds=embeds).logits[0, -1].softmax(-1)
    rows = [lm.model(inputs_embeds=rows_of(embeds, token)).logits[:, -1].softmax(-1) for token in range(len(ids))]
    return np.array([(clean.max() - each[:, clean.argmax()]).double().numpy() for each in rows])


def scaled_by_100(tokenizer):
    """The tiny model with an embedding table 100 times as large, which its first layer undoes."""
    model = tiny("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight *= 100
    model.model.layers[0].register_forward_pre_hook(lambda _, inputs: (inputs[0] / 100, *inputs[1:]))
    return noiser.LanguageModel(model, tokenizer)


@pytest.mark.parametrize("options", [{"bound": "rms"}, {"bound": "rms", "scale": 2.0, "pairs": True}, {"bound": "replace"}], ids=str)
def test_an_option_means_the_same_on_a_model_with_larger_embeddings(llama, tokenizer, options):
    large = scaled_by_100(tokenizer)
    ours, theirs = (noiser.attribute(lm, PROMPT, **options) for lm in (llama, large))
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5)
    np.testing.assert_allclose(theirs.stderr, ours.stderr, atol=1e-5)
    if options["bound"] == "rms":
        assert theirs.notes["k"] == pytest.approx(100 * ours.notes["k"])
        absolute = [noiser.attribute(lm, PROMPT, bound="none").scores for lm in (llama, large)]
        assert np.abs(absolute[0] - absolute[1]).max() > 0.01, "an absolute scale must not"


def test_the_scale_is_a_multiple_of_the_embeddings_size_without_special_tokens(llama):
    ids = (1, *PROMPT, 2)
    embeds = embed(llama.model, ids)[0].detach()
    llama_rms = float(embeds[1:-1].square().mean().sqrt())
    found = noiser.attribute(llama, ids, bound="rms", scale=3.0)
    assert (found.notes["k"], found.notes["k_status"]) == (pytest.approx(3 * llama_rms), "fixed")
    assert found.options["scale"] == 3.0
    assert root_mean_square(embeds, [True] * len(ids)) == pytest.approx(float(embeds.square().mean().sqrt()))


def test_on_a_linear_model_every_scale_gives_the_same_order(tokenizer):
    lm = noiser.LanguageModel(LinearLM(5), tokenizer)
    scores = [noiser.attribute(lm, (0, 1, 1, 0, 1), "noiser", first_logit, bound="rms", scale=scale) for scale in (0.5, 4.0, 32.0)]
    for found in scores[1:]:
        np.testing.assert_allclose(found.scores / found.options["scale"], scores[0].scores / 0.5, atol=1e-5)
        np.testing.assert_allclose(found.stderr / found.options["scale"], scores[0].stderr / 0.5, atol=1e-5)
        assert (found.scores.argsort() == scores[0].scores.argsort()).all()
    assert np.abs(scores[0].scores).min() > 1e-3


def test_scores_and_errors_are_those_of_plain_forwards(llama):
    found = noiser.attribute(llama, PROMPT, bound="rms", seed=3)
    noise = paper_noise(10, 64, 3, PROMPT)
    drops = plain_drops(llama, PROMPT, lambda embeds, token: perturbed(embeds, token, found.notes["k"], noise))
    np.testing.assert_allclose(found.scores[0], drops.mean(1), atol=1e-5)
    np.testing.assert_allclose(found.stderr[0], drops.std(1, ddof=1) / np.sqrt(10), atol=1e-5)
    assert found.dof == (9,)
    assert found.notes["samples"] == 10


def test_replacing_leaves_nothing_but_the_size(llama):
    found = noiser.attribute(llama, PROMPT, bound="replace", seed=3)
    noise = paper_noise(10, 64, 3, PROMPT)

    def rows(embeds, token):
        changed = embeds.repeat(10, 1, 1)
        changed[:, token] = embeds[0, token].square().mean().sqrt() * noise
        return changed

    drops = plain_drops(llama, PROMPT, rows)
    np.testing.assert_allclose(found.scores[0], drops.mean(1), atol=1e-5)
    np.testing.assert_allclose(found.stderr[0], drops.std(1, ddof=1) / np.sqrt(10), atol=1e-5)


def test_replacing_a_unit_leaves_tokens_in_between_alone(llama):
    from noiser.methods.noiser.noise import Noise

    embeds = embed(llama.model, PROMPT)[0].detach()
    change = Noise([(0,), (1, 3)], lambda offset: torch.full((2, 64), offset + 1.0), replace=True).perturbation(1, 1.0)
    rows = change.apply(embeds[1:4], range(1, 2))[0]
    sizes = embeds[1:4].square().mean(-1, keepdim=True).sqrt()
    assert (change.start, change.rows) == (1, 2)
    torch.testing.assert_close(rows, torch.stack([sizes[0].expand(64), embeds[2], 2 * sizes[2].expand(64)]))


def test_pairs_cancel_what_is_odd_in_the_noise_and_nothing_else(tokenizer, llama):
    odd = noiser.attribute(noiser.LanguageModel(OddLM([1.0] * 4), tokenizer), IDS, "noiser", first_logit, bound="none", pairs=True)
    assert (odd.scores == 0).all()
    assert (odd.stderr == 0).all()
    assert odd.dof == (4,)
    plain = noiser.attribute(noiser.LanguageModel(OddLM([1.0] * 4), tokenizer), IDS, "noiser", first_logit, bound="none")
    assert (plain.scores != 0).all()
    even = [noiser.attribute(noiser.LanguageModel(ToyLM(WEIGHT), tokenizer), IDS, bound="none", samples=s, pairs=s == 10) for s in (10, 5)]
    np.testing.assert_allclose(even[0].scores, even[1].scores, atol=1e-7)
    np.testing.assert_allclose(even[0].stderr, even[1].stderr, atol=1e-7)
    found = noiser.attribute(llama, PROMPT, bound="rms", scale=1.0, pairs=True)
    half = paper_noise(5, 64, 0, PROMPT)
    both = [plain_drops(llama, PROMPT, lambda e, t, s=sign: perturbed(e, t, s * found.notes["k"], half)) for sign in (1, -1)]
    np.testing.assert_allclose(found.scores[0], np.mean(both, axis=(0, 2)), atol=1e-5)
    np.testing.assert_allclose(found.stderr[0], np.mean(both, axis=0).std(1, ddof=1) / np.sqrt(5), atol=1e-5)


def test_pairs_may_be_searched_too(llama):
    found = noiser.attribute(llama, PROMPT, pairs=True)
    assert found.notes["k_status"] == "found"
    assert not found.notes["flipped"]


def test_a_token_that_the_model_ignores_is_zero_for_certain(tokenizer):
    for options in ({}, {"pairs": True}, {"bound": "none", "samples": "auto"}):
        found = noiser.attribute(noiser.LanguageModel(ToyLM(WEIGHT), tokenizer), IDS, **options)
        assert (found.scores[0, 2], found.stderr[0, 2]) == (0, 0)
        assert (np.delete(found.stderr[0], 2) > 0).all()
        assert found.notes["samples"] < 50, "a score of 0 sets no tolerance"


def test_a_single_draw_and_a_scale_of_zero_have_no_error(tokenizer, llama):
    assert noiser.attribute(llama, PROMPT, samples=1).stderr is None
    assert noiser.attribute(llama, PROMPT, samples=2, pairs=True, bound="rms").stderr is None
    floor = noiser.attribute(noiser.LanguageModel(ToyLM([1.0, 5000.0]), tokenizer), (0, 1))
    assert floor.notes["k"] == 0
    assert (floor.stderr, floor.dof) == (None, None)


def test_the_error_of_a_words_score_is_divided_as_the_score_is(llama):
    found = noiser.attribute(llama, "one two, three: four", bound="rms", unit="word")
    members = found.by("word").units.members
    assert max(map(len, members)) > 3
    draws = torch.stack([paper_noise(10, 64, 0, found.prompt.input_ids, offset) for offset in range(max(map(len, members)))], dim=1)
    k = found.notes["k"]
    for tokens in members:
        noise = draws[:, : len(tokens)]
        drops = plain_drops(llama, found.prompt.input_ids, lambda e, _, t=tokens, n=noise: perturbed(e, list(t), k, n))[0]
        np.testing.assert_allclose(found.stderr[0, list(tokens)] * len(tokens), drops.std(ddof=1) / np.sqrt(10), atol=1e-5)


@pytest.mark.parametrize("pairs", [False, True])
def test_draws_go_on_until_the_errors_are_small(llama, pairs):
    options = {"bound": "rms", "samples": "auto", "pairs": pairs}
    loose = noiser.attribute(llama, PROMPT, tolerance=10.0, **options)
    assert loose.notes["samples"] == 8
    found = noiser.attribute(llama, PROMPT, max_samples=2000, **options)
    count = found.notes["samples"]
    assert 8 < count < 2000
    assert count % 2 == 0
    assert found.dof == (count // 2 - 1 if pairs else count - 1,)
    assert 0.04 < found.stderr.max() / np.abs(found.scores).max() <= 0.1, "enough, and not far more than enough"
    fixed = noiser.attribute(llama, PROMPT, bound="rms", samples=count, pairs=pairs)
    np.testing.assert_allclose(found.scores, fixed.scores, atol=1e-6)
    np.testing.assert_allclose(found.stderr, fixed.stderr, atol=1e-6)
    capped = noiser.attribute(llama, PROMPT, tolerance=1e-3, max_samples=20, **options)
    assert capped.notes["samples"] == 20
    (_, beside) = noiser.attribute_many(llama, [(5, 9, 5), PROMPT], max_samples=2000, **options)
    assert beside.notes["samples"] == count
    np.testing.assert_allclose(beside.scores, found.scores, atol=1e-5)


def test_more_draws_leave_the_first_ones(llama):
    few, many = paper_noise(4, 64, 0, PROMPT), paper_noise(40, 64, 0, PROMPT)
    assert torch.equal(many[:4], few)
    assert torch.equal(official_noise(40, DIM, "l2")[:10], official_noise(10, DIM, "l2"))


def test_the_error_of_a_share_of_the_sum(llama):
    """variant=official divides by the sum of the drops: the delta method, against a jackknife over the draws."""
    found = noiser.attribute(llama, PROMPT, variant="official")
    drops = plain_drops(llama, PROMPT, lambda e, t: perturbed(e, t, found.notes["k"], official_noise(10, 64, None)))
    left_out = np.array([(total := np.delete(drops, j, axis=1).mean(1)) / total.sum() for j in range(10)])
    jackknife = np.sqrt(9 / 10 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(found.stderr[0], jackknife, rtol=0.25)
    share, total = drops.mean(1) / drops.mean(1).sum(), drops.mean(1).sum()
    np.testing.assert_allclose(found.stderr[0], ((drops - share[:, None] * drops.sum(0)) / total).std(1, ddof=1) / np.sqrt(10), rtol=1e-3)


def test_the_error_of_a_mean():
    values = np.random.default_rng(0).normal(size=(3, 8))
    stderr, dof = stderr_of_mean(values)
    np.testing.assert_allclose(stderr, values.std(1, ddof=1) / np.sqrt(8))
    assert dof == 7
    paired, dof = stderr_of_mean(np.repeat(values, 2, axis=1) + np.tile([1.0, -1.0], 8), pairs=True)
    np.testing.assert_allclose(paired, stderr)
    assert dof == 7
    assert stderr_of_mean(values[:, :1]) == (None, 0)


def test_rows_of_a_continuation_have_their_own_errors(llama):
    rows = noiser.attribute(llama, PROMPT, bound="rms", continuation=(44, 45))
    for row, ids in enumerate([PROMPT, (*PROMPT, 44)]):
        apart = noiser.attribute(llama, ids, bound="rms", target=(44, 45)[row])
        np.testing.assert_allclose(rows.stderr[row, : len(ids)], apart.stderr[0], atol=1e-6)
        assert (rows.stderr[row, len(ids) :] == 0).all()
    assert rows.dof == (9, 9)
