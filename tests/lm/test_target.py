"""What is explained: words, answers, contrasts, continuations, spans, functions; against plain full forwards.

Mutants caught: the foil added instead of subtracted; a continuation's rows read one position late; the sum of a span's
probabilities instead of their mean; generation that goes on after the end; the bound sought for the target instead of the
model's own prediction; flips asked for at a scale that was never tried.
"""

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import OptionError, PromptError
from noiser.methods.noiser.noise import paper_noise
from tests.conftest import tiny
from tests.toys import LinearLM

FAMILIES = ["llama", "gpt2", "mistral", "gemma3_text"]
PROMPT = (7, 200, 31, 150, 31, 99, 12, 250)
MORE = (77, 5, 140)
SCORED = {
    "noiser": {},
    "occlusion": {},
    "lime": {"samples": 40},
    "integrated_gradients": {"steps": 5, "aggregation": "sum"},
    "sequential_integrated_gradients": {"steps": 3, "aggregation": "sum"},
    "gradient_shap": {"aggregation": "sum"},
    "input_x_gradient": {"aggregation": "sum"},
    "deeplift": {"aggregation": "sum", "rules": "all"},
}


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request, tokenizer):
    return noiser.LanguageModel(tiny(request.param, vocab_size=len(tokenizer)), tokenizer)


@pytest.fixture(scope="module")
def llama(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer)


@torch.no_grad()
def logits(lm, ids, without=()):
    """At every position, by a full forward, some tokens' embeddings set to zero."""
    embeds = lm.model.get_input_embeddings()(torch.tensor([ids])).clone()
    embeds[:, list(without)] = 0
    return lm.model(inputs_embeds=embeds).logits[0].double()


def probs(lm, ids, answer, without=()):
    """The probability of each token of the answer, given those before."""
    found = logits(lm, (*ids, *answer[:-1]), without).softmax(-1)[len(ids) - 1 :]
    return found[range(len(answer)), list(answer)]


def drops(quantity, seq):
    """What zeroing each token takes from a quantity of the zeroed tokens."""
    return [float(quantity(()) - quantity((token,))) for token in range(seq)]


@pytest.mark.parametrize("method", SCORED)
def test_a_contrast_is_the_difference_of_two_runs(lm, method):
    own, other = logits(lm, PROMPT)[-1].topk(3).indices.tolist()[1:]
    asked = ({"target": own, "foil": other}, {"target": own}, {"target": other})
    both, target, foil = (noiser.attribute(lm, PROMPT, method, **given, **SCORED[method]) for given in asked)
    np.testing.assert_allclose(both.scores, target.scores - foil.scores, atol=1e-5)
    assert np.abs(foil.scores).max() > 1e-4, "the foil must count"
    assert both.target.value == pytest.approx(target.target.prob - foil.target.prob, abs=1e-7)
    assert both.target.foil.token_ids == (other,)


def test_log_odds_by_plain_forwards(lm):
    found = noiser.attribute(lm, PROMPT, "occlusion", target=17, foil=9, quantity="log_odds")

    def log_odds(without):
        last = logits(lm, PROMPT, without)[-1]
        return last[17] - last[9]

    np.testing.assert_allclose(found.scores[0], drops(log_odds, len(PROMPT)), atol=1e-4)
    assert found.target.value == pytest.approx(float(log_odds(())), abs=1e-4)


@pytest.mark.parametrize("quantity", ["prob", "log_odds"])
@pytest.mark.parametrize(("own", "foil"), [((17, 40), (9,)), ((17,), (9, 33, 8)), (None, (9, 33))])
def test_a_target_and_a_foil_of_unequal_length_by_plain_forwards(lm, own, foil, quantity):
    found = noiser.attribute(lm, PROMPT, "occlusion", target=own, foil=foil, quantity=quantity)
    own = own or (int(logits(lm, PROMPT)[-1].argmax()),)

    def contrast(without):
        one, other = (probs(lm, PROMPT, words, without).prod() for words in (own, foil))
        return one - other if quantity == "prob" else one.log() - other.log()

    np.testing.assert_allclose(found.scores[0], drops(contrast, len(PROMPT)), atol=1e-6 if quantity == "prob" else 2e-4)
    assert found.scores.shape == (1, len(PROMPT)), "what is explained is not attributed to"
    assert (found.target.token_ids, found.target.foil.token_ids) == (own, foil)


def test_noiser_on_a_contrast_of_unequal_length_by_plain_forwards(llama):
    found = noiser.attribute(llama, PROMPT, target=(17, 40), foil=9, seed=2)
    noise, k = paper_noise(10, 64, 2, PROMPT), found.notes["k"]

    @torch.no_grad()
    def noisy(token, answer, scale=k):
        embeds = llama.model.get_input_embeddings()(torch.tensor([(*PROMPT, *answer[:-1])])).repeat(10, 1, 1)
        embeds[:, token] += scale * noise
        steps = llama.model(inputs_embeds=embeds).logits[:, len(PROMPT) - 1 :].double().softmax(-1)
        return float(steps[:, range(len(answer)), list(answer)].prod(-1).mean())

    clean = noisy(0, (17, 40), 0) - noisy(0, (9,), 0)
    expected = [clean - (noisy(token, (17, 40)) - noisy(token, (9,))) for token in range(len(PROMPT))]
    np.testing.assert_allclose(found.scores[0], expected, atol=1e-6)


@pytest.mark.parametrize("method", [*SCORED, "last_attention", "attention_rollout"])
def test_a_continuations_rows_are_the_next_token_runs_on_the_extended_prompt(lm, method):
    options = SCORED.get(method, {})
    rows = noiser.attribute(lm, PROMPT, method, continuation=MORE, **options)
    assert rows.scores.shape == (3, len(PROMPT) + 2)
    assert (rows.given, rows.prompt.input_ids) == (len(PROMPT), (*PROMPT, *MORE[:-1]))
    for row, own in enumerate(MORE):
        alone = noiser.attribute(lm, (*PROMPT, *MORE[:row]), method, target=own, **options)
        length = len(PROMPT) + row
        np.testing.assert_allclose(rows.scores[row, :length], alone.scores[0], atol=2e-5)
        assert (rows.scores[row, length:] == 0).all()
        assert rows.targets[row].prob == pytest.approx(alone.target.prob, abs=1e-6)
        assert rows.targets[row].context == length
        if method == "noiser":
            assert rows.notes["rows"][row]["k"] == alone.notes["k"]


def test_generation_is_the_argmax_one_by_one(lm):
    found = noiser.attribute(lm, PROMPT, "occlusion", generate=4)
    ids = []
    for _ in range(4):
        ids.append(int(logits(lm, (*PROMPT, *ids))[-1].argmax()))
    assert [target.token_ids for target in found.targets] == [(own,) for own in ids]
    assert all(target.rank == 0 for target in found.targets)
    given = noiser.attribute(lm, PROMPT, "occlusion", continuation=ids)
    np.testing.assert_array_equal(found.scores, given.scores)


def test_generation_ends_with_the_token_that_ends_the_answer(tokenizer):
    model = tiny("llama")
    lm = noiser.LanguageModel(model, tokenizer)
    first = int(logits(lm, PROMPT)[-1].argmax())
    second = int(logits(lm, (*PROMPT, first))[-1].argmax())
    assert first != second
    model.generation_config.eos_token_id = [2, second]
    found = noiser.attribute(lm, PROMPT, "occlusion", generate=6)
    assert len(found.targets) == 2
    assert found.targets[-1].token_ids == (second,)


@pytest.mark.parametrize("quantity", ["log_prob", "mean_prob", "prob"])
def test_a_span_by_plain_forwards(lm, quantity):
    found = noiser.attribute(lm, PROMPT, "occlusion", continuation=(*MORE, 60), span=(1, 3), quantity=quantity)
    context, answer = (*PROMPT, MORE[0]), MORE[1:3]
    read = {"log_prob": lambda p: p.log().sum(), "mean_prob": lambda p: p.mean(), "prob": lambda p: p.prod()}[quantity]
    expected = drops(lambda without: read(probs(lm, context, answer, without)), len(context))
    np.testing.assert_allclose(found.scores[0], expected, atol=2e-4 if quantity == "log_prob" else 1e-6)
    assert found.prompt.input_ids == context
    assert found.target.token_ids == answer
    default = noiser.attribute(lm, PROMPT, "occlusion", continuation=(*MORE, 60), span=(1, 3))
    assert default.target.quantity == "log_prob"


@pytest.mark.parametrize("method", ["occlusion", "input_x_gradient", "integrated_gradients", "noiser"])
def test_a_function_by_its_parts(llama, method):
    """Logits are linear in what is read off, so the scores of a difference are the difference of the scores."""
    options = SCORED[method]
    difference, one, other = (
        noiser.attribute(llama, PROMPT, method, target=function, **options).scores
        for function in (lambda row: row[7] - row[9], lambda row: row[7], lambda row: row[9])
    )
    np.testing.assert_allclose(difference, one - other, atol=2e-4)
    odds = noiser.attribute(llama, PROMPT, method, target=7, foil=9, quantity="log_odds", **options).scores
    np.testing.assert_allclose(difference, odds, atol=2e-4)
    assert np.abs(other).max() > 1e-2


def test_a_function_of_a_linear_model(tokenizer):
    model = LinearLM(3)
    found = noiser.attribute(noiser.LanguageModel(model, tokenizer), (0, 1, 1), "occlusion", target=lambda row: 3 * row[0] + 5)
    exact = 3 * (model.slope * model.embedding(torch.tensor([0, 1, 1]))).sum(-1)
    np.testing.assert_allclose(found.scores[0], exact.detach(), atol=1e-5)
    assert found.target.quantity == "function <lambda>"


@pytest.mark.parametrize("wrong", [lambda row: 1.0, lambda row: row, lambda row: row.argmax(), lambda row: None])
@pytest.mark.parametrize("method", ["occlusion", "input_x_gradient"])
def test_a_function_that_gives_no_number_is_refused(llama, method, wrong):
    with pytest.raises(OptionError, match="to a scalar tensor; it returned"):
        noiser.attribute(llama, PROMPT, method, target=wrong)


WRONG = [
    ({"target": 17, "generate": 2}, "give one of target, continuation and generate"),
    ({"continuation": MORE, "generate": 2}, "give one of target, continuation and generate"),
    ({"span": (0, 1)}, "a span is part of a continuation"),
    ({"target": 17, "span": (0, 1)}, "a span is part of a continuation"),
    ({"continuation": MORE, "span": (2, 1)}, "with from < up to"),
    ({"continuation": MORE, "span": (1, 9)}, "reaches beyond the continuation, which has 3 tokens"),
    ({"continuation": MORE, "foil": 9}, "a foil is compared with a target"),
    ({"target": torch.max, "foil": 9}, "a foil is compared with a target"),
    ({"generate": 0}, "at least 1; got 0"),
    (
        {"target": 17, "quantity": "log_odds"},
        "the quantity of a target is prob or log_prob or mean_prob or hellinger or jsd; got 'log_odds'",
    ),
    ({"foil": 9, "quantity": "log_prob"}, "the quantity of a contrast is prob or log_odds"),
    ({"continuation": MORE, "quantity": "mean_prob"}, "the quantity of a continuation is prob or log_prob"),
    ({"target": torch.max, "quantity": "prob"}, "the function says what is explained"),
]


@pytest.mark.parametrize(("given", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_what_does_not_go_together_is_refused(llama, given, sentence):
    with pytest.raises(OptionError, match=sentence):
        noiser.attribute(llama, PROMPT, "occlusion", **given)


@pytest.mark.parametrize("given", [{"continuation": (5,) * 58}, {"generate": 58}, {"target": (5,) * 58}, {"foil": (5,) * 58}])
def test_a_continuation_must_fit_the_context(llama, given):
    with pytest.raises(PromptError, match=r"65 tokens and the model takes 64|58 generated are more than the 64"):
        noiser.attribute(llama, PROMPT, "occlusion", **given)


def test_a_continuation_may_fill_the_context(llama):
    assert noiser.attribute(llama, PROMPT, "uniform", continuation=(5,) * 57).scores.shape == (57, 64)


@pytest.mark.parametrize("search", ["fast", "exact"])
def test_noiser_keeps_the_bound_of_the_models_own_prediction(lm, search):
    own = noiser.attribute(lm, PROMPT, search="exact", bracket="expand")
    assert own.notes["k_status"] == "found"
    asked = [{"target": 17}, {"target": (17, 40)}, {"foil": 9}, {"target": 17, "foil": (9, 33)}, {"target": lambda row: row[3]}]
    for given in (*asked, {"continuation": MORE, "span": (0, 2)}):
        found = noiser.attribute(lm, PROMPT, search=search, bracket="expand", **given)
        assert found.notes["k"] == own.notes["k"], given
        assert found.notes["flipped"] == []


@pytest.mark.parametrize("bound", ["l2", "random", "none", "k_max", "k_max_per_token"])
def test_noisers_other_bounds_know_what_flips_whatever_is_explained(llama, bound):
    own, whole = (noiser.attribute(llama, PROMPT, bound=bound, **given) for given in ({}, {"target": (17, 40)}))
    assert own.notes["k"] == whole.notes["k"]
    assert own.notes["flipped"] == whole.notes["flipped"]
