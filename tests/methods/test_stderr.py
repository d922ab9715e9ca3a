"""Standard errors of every method that draws at random: against brute force, and how often their intervals hold.

Mutants caught, each run: a jackknife that leaves out single rows of pairs, or the whole prompt; its leverage left out; `draws - 1` for its
degrees of freedom; gradients of single rows not multiplied by the number of samples; the second part of split rows lost; the length of
each row for its part along the mean; stderr of a method that draws nothing.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import noiser
from noiser.lm.target import Objective
from noiser.methods.gradient_shap import row_parts
from noiser.methods.lime import kernel, ridge
from noiser.methods.noiser.evaluations import Drops
from noiser.methods.noiser.notes import saturation_warnings
from noiser.methods.uncertainty import ridge_stderr, stderr_of_mean
from noiser.registry import METHODS
from noiser.results.attribution import Target
from tests.conftest import tiny
from tests.toys import LinearLM, PairLM, ToyLM

PROMPT = (7, 200, 31, 150, 31, 99)
IDS = (0, 1, 1, 0, 1)
WITHOUT = {"random": "it estimates nothing", "shapley": "it is exact for so few tokens"}
"""Methods that draw at random and have no standard errors, and why."""
OPTIONS = {"gradient_shap": {"baseline": "unk", "samples": 20}}
"""With which errors are compared with the spread over seeds. On this model gradients grow without bound towards zero embeddings, so a
few points on that path say nothing about the next ones."""


@pytest.fixture(scope="module")
def llama(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer)


def first_logit(logits):
    return logits[0]


def ask(tokenizer, model, method, **options):
    return noiser.attribute(noiser.LanguageModel(model, tokenizer), IDS, method, first_logit, **options)


@pytest.mark.parametrize("name", [name for name in sorted(METHODS) if METHODS[name].source != "a test"])
def test_methods_that_draw_have_errors_and_the_others_have_none(llama, name):
    found = noiser.attribute(llama, PROMPT, name)
    drawn = "seed" in METHODS[name].options and name not in WITHOUT
    assert (found.stderr is not None) == (found.dof is not None) == drawn
    if found.stderr is not None:
        assert found.stderr.shape == found.scores.shape
        assert (found.stderr > 0).all()
        again = noiser.attribute(llama, PROMPT, name)
        assert again.stderr.tobytes() == found.stderr.tobytes()
        assert 0.6 < spread_ratio(llama, name) < 1.6, "the spread from seed to seed is what it estimates"


def spread_ratio(lm, name, **question):
    """The typical standard error over the standard deviation of the scores from seed to seed; the median over tokens."""
    options = OPTIONS.get(name, {})
    each = [noiser.attribute(lm, PROMPT, name, seed=seed, **question, **options) for seed in range(10)]
    typical = np.sqrt(np.mean([found.stderr[0] ** 2 for found in each], axis=0))
    return float(np.median(typical / np.std([found.scores[0] for found in each], axis=0, ddof=1)))


@pytest.mark.parametrize(("group", "fixed"), [(1, 1), (2, 1), (2, 0)])
def test_the_jackknife_is_that_of_regressions_without_each_draw(group, fixed):
    rng = np.random.default_rng(group)
    present = rng.random((40 * group + fixed, 5)) < 0.5
    present[:fixed] = True
    values = present @ rng.normal(size=5) + 0.3 * rng.normal(size=len(present)) * (1 + present[:, 0])
    without = []
    for draw in range(40):
        kept = np.delete(np.arange(len(present)), fixed + draw * group + np.arange(group))
        without.append(ridge(present[kept], values[kept], 0.5, 0.3)[0])
    exact = np.sqrt(39 / 40 * ((np.array(without) - np.mean(without, 0)) ** 2).sum(0))
    stderr, dof = ridge_stderr(present, values, kernel(present, 0.5), 0.3, group=group, fixed=fixed)
    np.testing.assert_allclose(stderr, exact, rtol=1e-9)
    assert dof == 40 - 5 - 1


def test_too_few_subsets_have_no_error(llama, tokenizer):
    assert noiser.attribute(llama, PROMPT, "lime", samples=8).stderr is None
    assert noiser.attribute(llama, PROMPT, "lime", samples=9).dof == (1,)
    assert noiser.attribute(llama, PROMPT, "gradient_shap", samples=1).stderr is None


def test_what_is_known_exactly_has_an_error_of_zero(tokenizer):
    """A linear quantity: every gradient and every subset says the same."""
    for method, options in (("gradient_shap", {"aggregation": "sum"}), ("gradient_shap", {}), ("lime", {"alpha": 0.0})):
        found = ask(tokenizer, LinearLM(5), method, **options)
        assert np.abs(found.scores).min() > 0.1
        np.testing.assert_allclose(found.stderr, 0, atol=1e-6, err_msg=method)


@pytest.mark.parametrize("budget", [None, 12])
def test_gradient_shaps_errors_are_those_of_its_points_one_by_one(tokenizer, budget):
    """f = a b along the path: the gradient at a share s is s times that at the prompt. A small budget splits the rows."""
    from noiser.rng import generator

    model = PairLM(5)
    shares = generator(0, IDS, "gradient_shap").random(5).astype(np.float32).astype(float)
    both = float((model.slope * model.embedding(torch.tensor(IDS)).detach()).sum(-1)[:2].prod())
    lm = noiser.LanguageModel(model, tokenizer, token_budget=budget)
    found = noiser.attribute(lm, IDS, "gradient_shap", first_logit, aggregation="sum")
    exact = abs(both) * shares.std(ddof=1) / 5**0.5
    np.testing.assert_allclose(found.stderr[0], [exact, exact, 0, 0, 0], atol=1e-5)
    assert found.dof == (4,)
    length = noiser.attribute(lm, IDS, "gradient_shap", first_logit)
    np.testing.assert_allclose(length.stderr[0], length.scores[0] * shares.std(ddof=1) / 5**0.5 / shares.mean(), atol=1e-5)


def test_the_error_of_a_length_is_that_of_the_jackknife():
    """Rows that point every way: their own lengths vary far less than the length of their mean."""
    rows = np.random.default_rng(0).normal(size=(400, 2, 8)) + 0.7 * np.eye(2, 8)
    lengths = np.array([np.linalg.norm(np.delete(rows, row, axis=0).mean(0), axis=-1) for row in range(400)])
    exact = np.sqrt(399 / 400 * ((lengths - lengths.mean(0)) ** 2).sum(0))
    stderr, _ = stderr_of_mean(row_parts(rows.mean(0), rows, "l2"))
    np.testing.assert_allclose(stderr, exact, rtol=0.01)


def test_errors_of_a_contrast_whose_sides_differ_in_length(llama):
    """Two branches, one of them longer than the prompt: the errors are those of the difference, draw by draw."""
    for method in ("noiser:bound=rms", "gradient_shap", "lime"):
        assert 0.6 < spread_ratio(llama, method, target=17, foil=(18, 19)) < 1.6, method


def test_batches_and_other_prompts_change_no_error(llama):
    small = noiser.LanguageModel(llama.model, llama.tokenizer, token_budget=7)
    for method in ("noiser", "noiser:bound=replace", "gradient_shap", "lime"):
        alone = noiser.attribute(llama, PROMPT, method)
        (_, beside) = noiser.attribute_many(llama, [(5, 9, 5), PROMPT], method)
        for other in (beside, noiser.attribute(small, PROMPT, method)):
            np.testing.assert_allclose(other.stderr, alone.stderr, atol=1e-5, rtol=1e-3, err_msg=method)
            assert other.dof == alone.dof


def test_errors_survive_what_is_done_with_a_result(llama):
    found = noiser.attribute(llama, PROMPT, bound="rms")
    curves = noiser.with_curves(llama, found)
    assert curves.stderr.tobytes() == found.stderr.tobytes()
    assert (curves.dof, replace(found, label="x").dof) == ((9,), (9,))
    both = noiser.compare(llama, PROMPT, ["noiser:bound=rms", "occlusion"])
    assert both.attributions[0].stderr.tobytes() == found.stderr.tobytes()
    assert both.attributions[1].stderr is None
    assert "stderr" in both.to_dict()["attributions"][0]


def test_intervals_hold_as_often_as_they_say(tokenizer):
    """Noise on a linear quantity: the drop is normal with mean 0. All but 5 % of the intervals of 40 tokens and 30 seeds hold 0."""
    lm = noiser.LanguageModel(LinearLM(40), tokenizer)
    ids = (0, 1) * 20
    found = [noiser.attribute(lm, ids, "noiser", first_logit, bound="rms", samples=4, seed=seed) for seed in range(30)]
    holds = np.mean([np.abs(each.scores) <= each.interval() for each in found])
    normal = np.mean([np.abs(each.scores) <= 1.96 * each.stderr for each in found])
    print(f"t {holds:.1%}, normal {normal:.1%}")
    assert 0.93 <= holds <= 0.97
    assert normal < 0.9


def test_a_flip_at_the_floor_has_no_error(tokenizer):
    floor = noiser.attribute(noiser.LanguageModel(ToyLM([1.0, 5000.0]), tokenizer), (0, 1))
    assert floor.stderr is None


@pytest.mark.parametrize(
    ("quantity", "left", "warns"),
    [
        ("prob", [0.0, 0.001, 0.0, 0.6], "Of 1 tokens"),
        ("prob", [0.5, 0.6, 0.55, 0.6], None),  # noise takes a little from every draw
        ("prob", [0.0, 0.6, 0.0, 0.6], None),
        ("log_prob", [0.0, 0.001, 0.0, 0.6], None),
    ],
)
def test_draws_that_take_everything_are_said_to_have_too_narrow_intervals(quantity, left, warns):
    """Mutant caught: `each` for `objective.value - each`, which warns of the second kind and not of the first."""
    target = Target((5,), ("x",), 0.7, 0, quantity, 0.7)
    drops = Drops(np.zeros(2), np.stack([0.7 - np.array(left), np.full(4, 0.1)]))
    warnings = saturation_warnings(Objective(target, ()), drops)
    assert len(warnings) == (warns is not None)
    assert not warns or warnings[0].startswith(warns)
