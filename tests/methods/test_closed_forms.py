"""The baselines where the answer is known: linear and bilinear models, one hidden layer, and completeness.

Mutants caught: the distance taken from zero whatever the baseline; zero for the unknown token's embedding; left rectangles
instead of Gauss-Legendre points; coefficients not uniform in GradientSHAP; the rescale rule's slope where its ratio belongs;
occlusion with its sign turned; LIME's sample weights dropped, or its intercept.
"""

import numpy as np
import pytest
import torch
from torch import nn

import noiser
from noiser.errors import OptionError
from noiser.methods.lime import ridge
from tests.conftest import tiny
from tests.toys import ActivationLM, LinearLM, PairLM

IDS = (0, 1, 1, 0, 1)
TARGET = 17
PROMPT = (7, 200, 31, 150, 31, 99, 12, 250)


def first_logit(logits):
    return logits[0]


def ask(tokenizer, model, method, **options):
    return noiser.attribute(noiser.LanguageModel(model, tokenizer), IDS, method, first_logit, **options)


def embeds_of(model):
    return model.embedding(torch.tensor(IDS)).detach()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "method", ["input_x_gradient", "integrated_gradients", "sequential_integrated_gradients", "gradient_shap", "deeplift", "occlusion"]
)
def test_on_a_linear_model_all_agree(tokenizer, method, seed):
    model = LinearLM(len(IDS), seed)
    exact = (model.slope * embeds_of(model)).sum(-1).numpy()
    found = ask(tokenizer, model, method, **({} if method == "occlusion" else {"aggregation": "sum"}))
    np.testing.assert_allclose(found.scores[0], exact, atol=1e-5)
    assert found.target.value == pytest.approx(exact.sum(), abs=1e-5)
    assert exact.min() < -0.5 < 0.5 < exact.max(), "both signs must occur"


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "gradient_shap", "deeplift"])
def test_l2_is_the_length_of_what_the_dimensions_contribute(tokenizer, method):
    model = LinearLM(len(IDS))
    exact = (model.slope * embeds_of(model)).norm(dim=-1).numpy()
    np.testing.assert_allclose(ask(tokenizer, model, method, aggregation="l2").scores[0], exact, atol=1e-5)


def test_lime_recovers_a_linear_model(tokenizer):
    model = LinearLM(len(IDS))
    exact = (model.slope * embeds_of(model)).sum(-1).numpy()
    free = ask(tokenizer, model, "lime", alpha=0)
    np.testing.assert_allclose(free.scores[0], exact, atol=1e-5)
    assert free.notes["r2"] == pytest.approx(1)
    near = ask(tokenizer, model, "lime")
    np.testing.assert_allclose(near.scores[0], exact, rtol=0.02)
    shrunk = ask(tokenizer, model, "lime", alpha=1000)
    assert np.abs(shrunk.scores).max() < 0.1 * np.abs(exact).max(), "the penalty must act"


def test_limes_regression_is_weighted_least_squares_with_a_penalty_on_all_but_the_intercept():
    rng = np.random.default_rng(0)
    present, values = rng.random((40, 4)) < 0.6, rng.normal(size=40)
    weight = np.exp(-(((1 - np.sqrt(present.mean(-1))) / 0.3) ** 2) / 2)
    design = np.column_stack([present, np.ones(40)]).astype(float)
    exact = np.linalg.solve(design.T * weight @ design + np.diag([0.7] * 4 + [0.0]), design.T @ (weight * values))
    np.testing.assert_allclose(ridge(present, values, 0.3, 0.7)[0], exact[:4], atol=1e-10)


def test_what_two_tokens_do_together(tokenizer):
    """f = a b: taking away either takes all away; along the straight path each gets half; gradients count it twice."""
    model = PairLM(len(IDS))
    both = float((model.slope * embeds_of(model)).sum(-1)[:2].prod())
    wanted = {"occlusion": 1.0, "sequential_integrated_gradients": 1.0, "input_x_gradient": 1.0, "integrated_gradients": 0.5}
    for method, share in wanted.items():
        found = ask(tokenizer, model, method, **({} if method == "occlusion" else {"aggregation": "sum"}))
        np.testing.assert_allclose(found.scores[0], [share * both] * 2 + [0.0] * 3, atol=1e-4, err_msg=method)


def test_gradient_shap_is_integrated_gradients_in_expectation(tokenizer):
    model = PairLM(len(IDS))
    few, many = (ask(tokenizer, model, "gradient_shap", samples=n, aggregation="sum").scores[0] for n in (2, 4000))
    exact = ask(tokenizer, model, "integrated_gradients", aggregation="sum").scores[0]
    np.testing.assert_allclose(many, exact, atol=0.03 * np.abs(exact).max())
    assert np.abs(few - exact).max() > 0.03 * np.abs(exact).max()


BASELINES = [("gpt2", "zero"), ("llama", "unk"), ("gemma3_text", "unk")]
"""A model that divides embeddings by their length (RMSNorm) does not notice them shrink until they are all but zero, so that no
reasonable number of steps is enough on the way to zeros."""


@pytest.mark.parametrize(("family", "baseline"), BASELINES)
def test_integrated_gradients_become_complete(tokenizer, family, baseline):
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    runs = [noiser.attribute(lm, PROMPT, "integrated_gradients", steps=n, aggregation="sum", baseline=baseline) for n in (2, 200)]
    gaps = [abs(run.notes["completeness_gap"]) for run in runs]
    assert gaps[1] < 0.02 * gaps[0], gaps
    with torch.no_grad():
        absent = lm.model.get_input_embeddings()(torch.zeros(1, len(PROMPT), dtype=torch.long))  # 0: padding, for want of an unknown token
        nothing = lm.model(inputs_embeds=absent * (baseline == "unk")).logits[0, -1].softmax(-1)[runs[1].target.token_ids[0]].item()
    assert runs[1].notes["baseline_value"] == pytest.approx(nothing, abs=1e-6)
    assert runs[1].scores.sum() == pytest.approx(runs[1].target.prob - nothing, abs=2 * gaps[1] + 1e-6)
    assert gaps[0] == pytest.approx(abs(runs[0].scores.sum() - (runs[0].target.prob - nothing)), abs=1e-6)


@pytest.mark.parametrize(("family", "baseline"), BASELINES[:2])
def test_sequential_integrated_gradients_become_occlusion(tokenizer, family, baseline):
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    occluded = noiser.attribute(lm, PROMPT, "occlusion", baseline=baseline).scores[0]
    method, options = "sequential_integrated_gradients", {"aggregation": "sum", "baseline": baseline}
    few, many = (noiser.attribute(lm, PROMPT, method, steps=steps, **options).scores[0] for steps in (2, 50))
    assert np.abs(few - occluded).max() > 1e-3
    np.testing.assert_allclose(many, occluded, atol=1e-4)


@pytest.mark.parametrize(("activation", "rules"), [(nn.ReLU(), "captum"), (nn.Tanh(), "captum"), (nn.SiLU(), "all"), (nn.GELU(), "all")])
def test_the_rescale_rule_is_complete_on_one_hidden_layer(tokenizer, activation, rules):
    model = ActivationLM(len(IDS), activation)
    found = ask(tokenizer, model, "deeplift", rules=rules, aggregation="sum")
    embeds = embeds_of(model)[None]
    after, before = model.hidden(embeds)[0], model.hidden(torch.zeros_like(embeds))[0]
    ratio = (activation(after) - activation(before)) / (after - before)
    exact = torch.einsum("h,hsd,sd->s", model.outward * ratio, model.inward, embeds[0])
    np.testing.assert_allclose(found.scores[0], exact, atol=1e-5)
    assert found.notes["completeness_gap"] == pytest.approx(0, abs=1e-5)
    plain = ask(tokenizer, model, "input_x_gradient", aggregation="sum")
    assert abs(plain.scores.sum() - found.scores.sum()) > 0.05, "gradients alone must miss it"


def test_activations_without_a_rule_pass_plain_gradients(tokenizer):
    model = ActivationLM(len(IDS), nn.SiLU())
    found, plain = (ask(tokenizer, model, method, aggregation="sum") for method in ("deeplift", "input_x_gradient"))
    np.testing.assert_allclose(found.scores, plain.scores, atol=1e-6)
    assert found.notes["rescaled_modules"] == 0
    assert "rules=all" in found.notes["warnings"][0]


def test_lime_with_pairs_reads_every_subset_of_few_tokens_once(tokenizer):
    """A product of two tokens, all 32 subsets, no kernel: each of the two gets half, the others exactly nothing but rounding."""
    model = PairLM(len(IDS))
    parts = (model.slope * embeds_of(model)).sum(-1).numpy()
    found = ask(tokenizer, model, "lime", pairs=True, samples=32, alpha=0, width=100.0)
    np.testing.assert_allclose(found.scores[0], [parts[0] * parts[1] / 2] * 2 + [0, 0, 0], rtol=1e-3, atol=1e-5)
    assert found.stderr is None, "nothing was drawn"
    assert found.cost.forward_tokens == ask(tokenizer, model, "lime", pairs=True).cost.forward_tokens, "200 samples are 32 subsets too"
    alone = ask(tokenizer, model, "lime", samples=32, alpha=0, width=100.0)
    assert np.abs(alone.scores[0, 2:]).max() > 0.01 * np.abs(found.scores).max(), "32 draws of their own leave chance"


def test_limes_pairs_are_drawn_by_the_seed_and_have_a_standard_error(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    runs = [noiser.attribute(lm, PROMPT, "lime", TARGET, pairs=True, samples=60, alpha=0, seed=seed) for seed in range(12)]
    spread, said = np.std([run.scores[0] for run in runs], axis=0), np.mean([run.stderr[0] ** 2 for run in runs], axis=0) ** 0.5
    assert 0.5 < np.sqrt((said**2).mean() / (spread**2).mean()) < 2
    again = noiser.attribute(lm, PROMPT, "lime", TARGET, pairs=True, samples=60, alpha=0, seed=3)
    assert again.scores.tobytes() == runs[3].scores.tobytes()
    with pytest.raises(OptionError, match=r"keep=0\.5; got keep=0\.7"):
        noiser.attribute(lm, PROMPT, "lime", pairs=True, keep=0.7)
