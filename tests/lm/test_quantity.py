"""Distances of the whole next-token distribution as quantities: against scipy, closed forms and plain full forwards.

Mutants caught, each run: the root of the Hellinger distance left out; `- compute` for `0.0 - compute` (-0 when clean); nats for bits;
`sqrt` of 0 without its guard (a gradient of NaN); the reference with its gradient; the first end instead of the last as reference;
`check_slope` left out; the check of several tokens left out.
"""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

import noiser
from noiser.errors import OptionError
from noiser.lm.quantity import DISTANCES, distance_logit_fn
from tests.conftest import tiny

PROMPT = (7, 200, 31, 150, 31, 99)
MORE = (44, 45, 46)
SIGNLESS = -1e-6
"""Float32 rounding may take a distance of 0 this far below it."""


def hellinger(p, q):
    return np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2)


def jsd(p, q):
    return jensenshannon(p, q, base=2) ** 2


PLAIN = {"hellinger": hellinger, "jsd": jsd}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def lm(request, tokenizer):
    return noiser.LanguageModel(tiny(request.param), tokenizer)


@pytest.fixture(scope="module")
def llama(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer)


@torch.no_grad()
def distribution(lm, ids, without=()):
    """Of the next token, by a full forward, some tokens' embeddings set to zero."""
    embeds = lm.model.get_input_embeddings()(torch.tensor([ids])).clone()
    embeds[:, list(without)] = 0
    return lm.model(inputs_embeds=embeds).logits[0, -1].double().softmax(-1).numpy()


@pytest.mark.parametrize("quantity", DISTANCES)
def test_a_quantity_is_minus_the_distance(quantity):
    logits = torch.randn(5, 1, 400, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1, 3, 10, 80])[:, None, None]
    probs = logits[:, 0].double().softmax(-1).numpy()
    for reference in range(5):
        found = distance_logit_fn(quantity, logits[reference, 0], 0).function(logits).numpy()
        expected = [-PLAIN[quantity](p, probs[reference]) for p in probs]
        expected[reference] = 0.0
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert found[reference] == 0
        assert not np.signbit(found[reference])
        assert (found >= -1).all()
    apart = torch.tensor([[[200.0, 0.0]], [[0.0, 200.0]]])
    assert distance_logit_fn(quantity, apart[0, 0], 0).function(apart).tolist() == pytest.approx([0.0, -1.0])


@pytest.mark.parametrize("quantity", DISTANCES)
def test_gradients_are_finite_everywhere_and_right_away_from_the_clean_run(quantity):
    """`wide` has probabilities that are 0 in float32."""
    generator = torch.Generator().manual_seed(1)
    reference, other, wide = torch.randn(3, 1, 1, 30, generator=generator) * torch.tensor([1.0, 1.0, 90.0])[:, None, None, None]
    of = distance_logit_fn(quantity, reference[0, 0], 0).function
    for logits in (reference, other, wide):
        (slope,) = torch.autograd.grad(of(logits.requires_grad_()).sum(), logits)
        assert slope.isfinite().all()
        assert (slope == 0).all() == (logits is reference)
        if logits is other:
            step = 1e-2 * torch.randn(slope.shape, generator=generator)
            change = (of(logits + step) - of(logits - step)).item() / 2
            assert change == pytest.approx(float((slope * step).sum()), rel=1e-2)


@pytest.mark.parametrize("quantity", DISTANCES)
def test_occlusion_scores_are_distances_by_plain_forwards(lm, quantity):
    found = noiser.attribute(lm, PROMPT, "occlusion", quantity=quantity)
    clean = distribution(lm, PROMPT)
    expected = [PLAIN[quantity](clean, distribution(lm, PROMPT, (token,))) for token in range(len(PROMPT))]
    np.testing.assert_allclose(found.scores[0], expected, atol=1e-5)
    assert (found.target.quantity, found.target.value) == (quantity, 0.0)
    assert found.target.prob == pytest.approx(clean.max(), abs=1e-6)
    other = noiser.attribute(lm, PROMPT, "occlusion", target=17, quantity=quantity)
    np.testing.assert_allclose(other.scores, found.scores, atol=1e-6)  # whichever token it is asked of
    rows = noiser.attribute(lm, PROMPT, "occlusion", continuation=MORE, quantity=quantity)
    for row in range(3):
        before = (*PROMPT, *MORE[:row])
        apart = noiser.attribute(lm, before, "occlusion", quantity=quantity)
        np.testing.assert_allclose(rows.scores[row, : len(before)], apart.scores[0], atol=1e-5)


@pytest.mark.parametrize("quantity", DISTANCES)
@pytest.mark.parametrize("method", ["noiser", "noiser:bound=rms", "occlusion", "lime", "gradient_shap", "integrated_gradients"])
def test_every_method_that_leaves_the_clean_run_has_scores(llama, method, quantity):
    found = noiser.attribute(llama, PROMPT, method, quantity=quantity)
    assert np.isfinite(found.scores).all()
    assert found.scores.max() > 1e-3
    if method.split(":")[0] in ("noiser", "occlusion"):
        assert found.scores.min() >= SIGNLESS
    (beside, *_) = noiser.attribute_many(llama, [PROMPT, (5, 9, 5, 7)], method, quantity=quantity)
    np.testing.assert_allclose(beside.scores, found.scores, atol=1e-5)
    assert json.loads(found.to_json())["target"]["quantity"] == quantity


@pytest.mark.parametrize("quantity", DISTANCES)
def test_integrated_gradients_add_up_to_the_distance_of_the_baseline(llama, quantity):
    """From the unknown token: the way to zero embeddings ends in a jump, of every quantity (see the method's warning)."""
    found = noiser.attribute(llama, PROMPT, "integrated_gradients", quantity=quantity, aggregation="sum", baseline="unk")
    whole = PLAIN[quantity](distribution(llama, PROMPT), distribution(llama, (llama.tokens.unknown,) * len(PROMPT)))
    assert whole > 0.3
    assert found.scores.sum() == pytest.approx(whole, abs=0.01)
    assert found.notes["baseline_value"] == pytest.approx(-whole, abs=1e-5)


@pytest.mark.parametrize("quantity", DISTANCES)
def test_a_token_that_the_model_ignores_gets_zero(tokenizer, quantity):
    windowed = noiser.LanguageModel(tiny("mistral"), tokenizer)
    far = noiser.attribute(windowed, (7, 200, 31, 150, 31, 99, 12, 250, 77, 5), bound="rms", quantity=quantity)
    assert np.abs(far.scores[0, :3]).max() < 1e-12  # on some processors the anchor's own distance is not quite 0
    assert (far.scores[0, 4:] > 0).all()


@pytest.mark.parametrize("quantity", DISTANCES)
def test_removal_curves_fall_from_zero(llama, quantity):
    found = noiser.with_curves(llama, noiser.attribute(llama, PROMPT, "occlusion", quantity=quantity))
    (curve,) = found.curves
    assert (curve.removed[0], curve.kept[-1]) == (0, 0)
    assert max(curve.removed) <= 1e-6
    assert min(curve.removed) < -1e-3


@pytest.mark.parametrize(
    ("method", "question", "sentence"),
    [
        ("input_x_gradient", {}, "its gradient there is 0 .* take integrated_gradients"),
        ("deeplift", {}, "its gradient there is 0 .* take integrated_gradients"),
        ("occlusion", {"target": MORE}, "one next-token distribution, and the target has 3 tokens: give it as continuation"),
        ("occlusion", {"target": 17, "foil": 18}, "the quantity of a contrast is prob or log_odds; .* a contrast is not one"),
        ("occlusion", {"continuation": MORE, "span": (0, 2)}, "the quantity of a span is .* a span is not one"),
        ("occlusion", {"target": lambda logits: logits[0]}, "the function says what is explained; .* a function is not one"),
    ],
)
@pytest.mark.parametrize("quantity", DISTANCES)
def test_what_has_no_distance_says_so(llama, method, question, sentence, quantity):
    with pytest.raises(OptionError, match=sentence):
        noiser.attribute(llama, PROMPT, method, quantity=quantity, **question)
