"""The baselines against Inseq, on which the paper built them, and against Captum, on which Inseq builds.

Mutants caught, among others: quadrature weights that add up to 2; the rescale rule's ratio upside down.
"""

import numpy as np
import pytest
import torch
from torch import nn

import noiser
from noiser.rng import generator
from tests.conftest import tiny

QUESTIONS = {"eiffel": ("The Eiffel Tower is located in the city of", " Paris"), "second best": ("Two plus two equals", " five")}
PROMPT = (7, 200, 31, 150, 31, 99, 12, 250)
TARGET = 17


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.fixture(scope="module")
def inseq():
    return pytest.importorskip("inseq")


@pytest.fixture(scope="module")
def wrapped(inseq):
    """Inseq around a model of its own, because it leaves hooks behind."""
    own = noiser.load()
    return inseq.load_model(own.model, "input_x_gradient", tokenizer=own.tokenizer)


def by_inseq(wrapped, question, method, **options):
    """Its scores, raw: per dimension and signed where it has them."""
    prompt, target = QUESTIONS[question]
    found = wrapped.attribute(prompt, prompt + target, method=method, show_progress=False, **options)
    scores = found.sequence_attributions[0].target_attributions[:-1, 0].double().numpy()
    return scores if scores.ndim == 1 else np.linalg.norm(scores, axis=-1)


def agree(ours, theirs, name, least=0.99999):
    near = cosine(ours, theirs)
    print(f"{name}: cosine {near:.7f}, sizes {np.linalg.norm(ours) / np.linalg.norm(theirs):.5f}")
    assert near >= least
    assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(theirs), rel=0.01)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "deeplift"])
def test_gradient_methods_are_inseqs_on_the_real_model(smol, wrapped, method, question):
    steps = method == "integrated_gradients"
    baseline = {} if method == "input_x_gradient" else {"baseline": "unk"}
    prompt, target = QUESTIONS[question]
    ours = noiser.attribute(smol, prompt, method, target, **baseline, **({"steps": 8} if steps else {}))
    theirs = by_inseq(wrapped, question, method, **({"n_steps": 8} if steps else {}))
    agree(ours.scores[0], theirs, f"{method}, {question}")


def test_the_baseline_matters(smol):
    prompt, target = QUESTIONS["second best"]
    zero, unk = (noiser.attribute(smol, prompt, "integrated_gradients", target, steps=8, baseline=b) for b in ("zero", "unk"))
    assert cosine(zero.scores[0], unk.scores[0]) < 0.99


def test_gradient_shap_is_inseqs_with_the_same_coefficients(smol, wrapped, monkeypatch):
    prompt, target = QUESTIONS["eiffel"]
    ours = noiser.attribute(smol, prompt, "gradient_shap", target, baseline="unk", seed=4)
    other = noiser.attribute(smol, prompt, "gradient_shap", target, baseline="unk", seed=5)
    assert cosine(ours.scores[0], other.scores[0]) < 0.999, "the coefficients must matter"
    same_coefficients(monkeypatch, ours.prompt.input_ids, 4)
    agree(ours.scores[0], by_inseq(wrapped, "eiffel", "gradient_shap"), "gradient_shap")


def same_coefficients(monkeypatch, ids, seed):
    """Captum draws its coefficients from numpy's global generator: give it ours."""
    monkeypatch.setattr(np.random, "uniform", lambda low, high, count: generator(seed, ids, "gradient_shap").random(count))


def test_sequential_integrated_gradients_are_inseqs(smol, wrapped):
    prompt, target = QUESTIONS["second best"]
    ours = noiser.attribute(smol, prompt, "sequential_integrated_gradients", target, baseline="unk", steps=4)
    together = noiser.attribute(smol, prompt, "integrated_gradients", target, baseline="unk", steps=4)
    assert cosine(ours.scores[0], together.scores[0]) < 0.99, "a path of its own must matter"
    theirs = by_inseq(wrapped, "second best", "sequential_integrated_gradients", n_steps=4)
    agree(ours.scores[0], theirs, "sequential_integrated_gradients")


@pytest.mark.parametrize("question", QUESTIONS)
def test_occlusion_is_inseqs_without_its_sign(smol, wrapped, question):
    prompt, target = QUESTIONS[question]
    ours = noiser.attribute(smol, prompt, "occlusion", target, baseline="unk")
    theirs = by_inseq(wrapped, question, "occlusion")
    agree(np.abs(ours.scores[0]), theirs, f"occlusion, {question}")
    np.testing.assert_allclose(np.abs(ours.scores[0]), theirs, atol=1e-5)


class Probability(nn.Module):
    """Embeddings [rows, seq, dim] to the target's probability, for Captum."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, embeds):
        return self.model(inputs_embeds=embeds).logits[:, -1].softmax(-1)[:, TARGET]


def by_captum(model, name, **options):
    captum = pytest.importorskip("captum.attr")
    embeds = model.get_input_embeddings()(torch.tensor([PROMPT])).detach()
    baselines = {} if name == "InputXGradient" else {"baselines": torch.zeros_like(embeds)}
    found = getattr(captum, name)(Probability(model)).attribute(embeds.requires_grad_(), **baselines, **options)
    return found[0].detach().double().numpy()


@pytest.mark.parametrize("aggregation", ["l2", "sum"])
@pytest.mark.parametrize("family", ["llama", "opt", "gemma3_text"])
@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "gradient_shap"])
def test_gradient_methods_are_captums(tokenizer, monkeypatch, method, family, aggregation):
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    points = {"steps": 50} if method == "integrated_gradients" else {}
    ours = noiser.attribute(lm, PROMPT, method, TARGET, aggregation=aggregation, **points)
    if method == "integrated_gradients":
        theirs = by_captum(lm.model, "IntegratedGradients", n_steps=50, method="gausslegendre")
    elif method == "gradient_shap":
        same_coefficients(monkeypatch, PROMPT, 0)
        theirs = by_captum(lm.model, "GradientShap", n_samples=5, stdevs=0.0)
    else:
        theirs = by_captum(lm.model, "InputXGradient")
    theirs = np.linalg.norm(theirs, axis=-1) if aggregation == "l2" else theirs.sum(-1)
    np.testing.assert_allclose(ours.scores[0], theirs, atol=1e-4 * np.abs(theirs).max())
    assert np.abs(theirs).max() > 1e-5, "there must be something to explain"


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_deeplift_is_captums_whether_its_rule_applies_or_not(tokenizer, family):
    """OPT's activation is a ReLU module, for which Captum has the rule; Llama's is SiLU, for which it has none."""
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    theirs = by_captum(lm.model, "DeepLift").sum(-1)
    ours = noiser.attribute(lm, PROMPT, "deeplift", TARGET, aggregation="sum")
    np.testing.assert_allclose(ours.scores[0], theirs, atol=1e-4 * np.abs(theirs).max())
    assert ours.notes["rescaled_modules"] == (2 if family == "opt" else 0)
    assert bool(ours.notes["warnings"]) == (family == "llama"), "that no rule applies must be said"
    plain = noiser.attribute(lm, PROMPT, "input_x_gradient", TARGET, aggregation="sum")
    assert (cosine(plain.scores[0], theirs) > 0.99999) == (family == "llama"), "the rule must matter where it applies"


def test_deeplift_with_all_rules_reaches_what_captum_leaves(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    some, every = (noiser.attribute(lm, PROMPT, "deeplift", TARGET, rules=rules) for rules in ("captum", "all"))
    assert every.notes["rescaled_modules"] == 2
    assert cosine(some.scores[0], every.scores[0]) < 0.9999
    assert not any(module._forward_hooks for module in lm.model.modules()), "no hook may stay"
