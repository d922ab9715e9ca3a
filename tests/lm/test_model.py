"""The engine gives the same numbers however the work is cut, and counts what it does.

Mutants caught: an anchor row counted into the mean; the last rows of a split member lost; a prefix of the wrong prompt in a
shared batch; noise named by the place in the list instead of the prompt; clean passes that see their neighbours.
"""

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import NonFiniteError, PromptError
from noiser.lm.perturbation import AddNoise, PerturbedRows
from noiser.lm.quantity import token_logit_fn
from tests.conftest import tiny

PROMPTS = [(7, 200, 31, 150, 31, 99), (5, 5, 5), (9,), (120, 60, 30, 15, 7, 3, 1, 0, 2, 4, 8, 16), (44, 45)]
FAMILIES = ["llama", "gemma3_text", "gpt2"]


def scored(lm, prompt, **options):
    result = noiser.attribute(lm, prompt, **options)
    return result.scores[0], result.notes["k"]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize("search", ["fast", "exact"])
def test_the_size_of_a_batch_changes_nothing(family, tokenizer, search):
    reference, k = scored(noiser.LanguageModel(tiny(family), tokenizer), PROMPTS[0], search=search)
    assert np.abs(reference).max() > 1e-3
    worst = 0.0
    for rows in (1, 2, 7, 32):
        lm = noiser.LanguageModel(tiny(family), tokenizer, token_budget=rows * len(PROMPTS[0]))
        scores, other = scored(lm, PROMPTS[0], search=search)
        assert other == k
        worst = max(worst, np.abs(scores - reference).max())
    print(f"largest deviation {worst:.1e}")
    assert worst < 1e-5


def test_the_prefix_changes_nothing_but_the_cost(family, tokenizer):
    packed, full = (noiser.attribute(noiser.LanguageModel(tiny(family), tokenizer, prefix=prefix), PROMPTS[3]) for prefix in (True, False))
    assert (packed.notes["layout"], full.notes["layout"]) == ("packed", "full: asked for")
    assert packed.notes["k"] == full.notes["k"]
    np.testing.assert_allclose(packed.scores, full.scores, atol=1e-5)
    assert packed.cost.forward_tokens < 0.7 * full.cost.forward_tokens


def test_company_changes_nothing(family, tokenizer):
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    alone = [noiser.attribute(lm, prompt) for prompt in PROMPTS]
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 3, 0]):
        together = list(noiser.attribute_many(lm, [PROMPTS[n] for n in order]))
        for n, result in zip(order, together, strict=True):
            assert result.prompt == alone[n].prompt, "results come in the order given"
            assert result.notes["k"] == alone[n].notes["k"]
            assert result.cost.forward_tokens == alone[n].cost.forward_tokens
            np.testing.assert_allclose(result.scores, alone[n].scores, atol=1e-5)


def test_company_makes_fewer_forward_passes(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    noiser.attribute(lm, PROMPTS[0])  # the one-time check of the layout
    passes = []
    handle = lm.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        prompts = [tuple((7 * n + i) % 250 for i in range(8)) for n in range(12)]
        alone = [noiser.attribute(lm, prompt) for prompt in prompts]
        apart, passes[:] = len(passes), []
        together = list(noiser.attribute_many(lm, prompts))
    finally:
        handle.remove()
    assert [a.notes["k"] for a in alone] == [b.notes["k"] for b in together]
    print(f"{apart} passes apart, {len(passes)} together")
    assert len(passes) < apart / 2


def test_threads_change_nothing(tokenizer):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(scored(noiser.LanguageModel(tiny("llama"), tokenizer), PROMPTS[3]))
    finally:
        torch.set_num_threads(before)
    assert results[0][1] == results[1][1]
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-5)


@pytest.mark.slow
def test_the_real_model_is_as_steady(smol):
    text = "The opposite of hot is"
    reference, k = scored(smol, text)
    for options in ({"token_budget": 7}, {"token_budget": 64}, {"prefix": False}):
        scores, other = scored(noiser.LanguageModel(smol.model, smol.tokenizer, **options), text)
        assert other == k, options
        np.testing.assert_allclose(scores, reference, atol=1e-5)
    among = list(noiser.attribute_many(smol, ["Rome is the", text, "One, two,"]))
    assert among[1].notes["k"] == k
    np.testing.assert_allclose(among[1].scores[0], reference, atol=1e-5)


def test_cost_is_what_went_through_the_model(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    noiser.attribute(lm, PROMPTS[0])
    seen = []
    handle = lm.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    spent = lm.token_counter.forward_tokens
    try:
        results = list(noiser.attribute_many(lm, PROMPTS))
    finally:
        handle.remove()
    assert sum(result.cost.forward_tokens for result in results) == lm.token_counter.forward_tokens - spent == sum(seen)
    assert [result.cost.backward_tokens for result in results] == [len(prompt) for prompt in PROMPTS]
    assert all(result.cost.peak_bytes > 1 << 20 and result.cost.seconds > 0 for result in results)


def test_a_readout_is_the_mean_of_its_rows(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    (clean,) = lm.clean([lm.prompt(PROMPTS[0])])
    shift = torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(1))
    logit_fn = token_logit_fn("prob", (9,), (len(PROMPTS[0]) - 1,))
    (readout,) = lm.run_perturbed([PerturbedRows(clean, AddNoise(2, shift, 0.5), logit_fn, base=4, anchor=True)])
    rows = clean.embeds.repeat(3, 1, 1)
    rows[:, 2:3] += 0.5 * shift
    with torch.no_grad():
        each = lm.model(inputs_embeds=rows).logits[:, -1].softmax(-1)
    mean = each.mean(0)
    assert readout.values == pytest.approx(each[:, 9].tolist(), abs=1e-6)
    assert readout.value == pytest.approx(mean[9].item(), abs=1e-6)
    assert readout.anchor == pytest.approx(clean.probs[9].item(), abs=1e-6)
    assert readout.base == pytest.approx(mean[4].item(), abs=1e-6)
    mean[4] = -1
    assert (readout.rival, readout.rival_id) == (pytest.approx(mean.max().item(), abs=1e-6), int(mean.argmax()))
    assert readout.forward_tokens == 4 * (len(PROMPTS[0]) - 2)


def test_a_bad_prompt_costs_the_others_nothing(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    prompts = [PROMPTS[0], "", PROMPTS[1], (7,) * 65, PROMPTS[4]]
    results = list(noiser.attribute_many(lm, prompts, errors="return"))
    assert [type(result).__name__ for result in results] == ["Attribution", "Failure", "Attribution", "Failure", "Attribution"]
    assert (results[1].index, results[3].index) == (1, 3)
    stream = noiser.attribute_many(lm, prompts)
    assert next(stream).prompt.input_ids == PROMPTS[0]
    with pytest.raises(PromptError, match="no tokens"):
        next(stream)


def test_results_come_as_they_are_ready(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield PROMPTS[1]

    stream = noiser.attribute_many(lm, endless())
    first = next(stream)
    assert first.prompt.input_ids == PROMPTS[1]
    assert len(drawn) <= 64, "an endless source must not be read to its end"


def test_nan_stays_with_the_prompt_that_has_it(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    healthy = [PROMPTS[0], PROMPTS[3]]
    expected = [noiser.attribute(lm, prompt) for prompt in healthy]
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[201] = torch.nan
    first, broken, last = noiser.attribute_many(lm, [healthy[0], (5, 201, 9), healthy[1]], errors="return")
    assert isinstance(broken.error, NonFiniteError)
    for found, alone in zip((first, last), expected, strict=True):
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


def test_nan_of_one_perturbed_row_stays_there(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    clean = lm.clean([lm.prompt(PROMPTS[0])])[0]
    noise = torch.ones(2, 1, 64)
    logit_fn = token_logit_fn("prob", (4,), (len(PROMPTS[0]) - 1,))
    perturbed = [PerturbedRows(clean, AddNoise(n, noise * (torch.nan if n == 2 else 1), 0.1), logit_fn) for n in range(5)]
    together, apart = lm.run_perturbed(perturbed), [lm.run_perturbed([rows])[0] for rows in perturbed]
    assert [readout.fault for readout in together] == ["", "", "nonfinite", "", ""]
    assert [r.value for r in together if not r.fault] == pytest.approx([r.value for r in apart if not r.fault], abs=1e-6)


@pytest.mark.parametrize("prefix", [True, False])
def test_a_model_that_computes_the_logits_of_all_positions(tokenizer, prefix):
    """Mutants: the first positions kept instead of the last; the budget as if only some were computed."""

    class AllLogits(type(tiny("llama"))):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None, use_cache=None):
            return super().forward(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache=use_cache)

    model = tiny("llama")
    expected = noiser.attribute(noiser.LanguageModel(model, tokenizer, prefix=prefix), PROMPTS[0], "occlusion", generate=3)
    model.__class__ = AllLogits
    lm = noiser.LanguageModel(model, tokenizer, prefix=prefix)
    found = noiser.attribute(lm, PROMPTS[0], "occlusion", generate=3)
    assert [target.token_ids for target in found.targets] == [target.token_ids for target in expected.targets]
    assert found.notes["layout"] == expected.notes["layout"]
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    assert lm.budget.tokens <= lm.budget.rows
