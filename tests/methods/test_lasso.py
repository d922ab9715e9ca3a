"""`lime:prior=lasso` against the closed form of an orthogonal design, the optimality conditions, scikit-learn, and a sparse model.

Mutants caught: the penalty on features that are not standardised; the coefficients left in standardised units; the loss not halved; a
kernel that weighs subsets; the whole prompt as the first subset; a standard error from the ridge.
"""

import numpy as np
import pytest

import noiser
from noiser.errors import OptionError
from noiser.lm.tokenizer import Source
from noiser.methods.lime import draw_subsets, lasso
from noiser.rng import generator
from tests.conftest import tiny
from tests.toys import PairLM

PROMPT: Source = (7, 200, 31, 150, 31, 99, 12, 250)


def problem(rows: int, units: int, seed: int):
    rng = np.random.default_rng(seed)
    present = rng.random((rows, units)) < 0.5
    weights = rng.normal(size=units) * (rng.random(units) < 0.4)
    return present, present @ weights + 0.1 * rng.normal(size=rows)


def test_of_an_orthogonal_design_each_coefficient_is_soft_thresholded():
    """All 8 subsets of three units: the standardised features are orthogonal, with deviation 1/2."""
    present = np.array([[bool(number >> bit & 1) for bit in range(3)] for number in range(8)])
    values = present @ np.array([0.5, -0.1, 0.06]) + 3
    plain = np.array([0.5, -0.1, 0.06])
    exact = np.sign(plain) * np.maximum(np.abs(plain) * 0.5 - 0.04, 0) / 0.5
    np.testing.assert_allclose(lasso(present, values, 0.04)[0], exact, atol=1e-9)
    assert exact[2] == 0 and exact[0] > 0 > exact[1]


@pytest.mark.parametrize("rows, units", [(64, 10), (24, 40)])
def test_the_optimality_conditions_hold_also_with_more_units_than_subsets(rows, units):
    present, values = problem(rows, units, 1)
    found, r2 = lasso(present, values, 0.03)
    centred = present - present.mean(0)
    deviation = centred.std(0)
    residual = values - values.mean() - centred @ found
    slopes = (centred / deviation).T @ residual / rows
    np.testing.assert_allclose(slopes[found != 0], 0.03 * np.sign(found[found != 0]), atol=1e-6)
    assert (np.abs(slopes) <= 0.03 + 1e-6).all() and 0 < np.count_nonzero(found) < units
    assert r2 == pytest.approx(1 - residual.var() / values.var())


@pytest.mark.parametrize("rows, units", [(64, 12), (32, 33)])
def test_it_is_scikit_learns(rows, units):
    linear_model, preprocessing = (pytest.importorskip(f"sklearn.{name}") for name in ("linear_model", "preprocessing"))
    present, values = problem(rows, units, 2)
    scaler = preprocessing.StandardScaler().fit(present.astype(float))
    other = linear_model.Lasso(alpha=0.01, tol=1e-12, max_iter=1_000_000).fit(scaler.transform(present.astype(float)), values)
    np.testing.assert_allclose(lasso(present, values, 0.01)[0], other.coef_ / scaler.scale_, atol=1e-6)


def test_a_unit_that_is_always_present_gets_nothing():
    present, values = problem(30, 4, 3)
    present[:, 1] = True
    found, _ = lasso(present, values, 0.01)
    assert found[1] == 0 and np.isfinite(found).all()


def test_the_method_fits_the_values_of_its_own_subsets(tokenizer):
    """On f = a b of the first two tokens, by the products themselves: the subsets are the drawn ones, none replaced by the whole prompt."""
    model = PairLM(5)
    found = noiser.attribute(
        noiser.LanguageModel(model, tokenizer), (0, 1, 1, 0, 1), "lime:prior=lasso+samples=40+alpha=0.001", lambda logits: logits[0]
    )
    present = draw_subsets(40, 5, 0.5, whole=False, rng=generator(0, (0, 1, 1, 0, 1), "lime"))
    both = found.target.value or 0.0
    expected, r2 = lasso(present, both * (present[:, 0] & present[:, 1]), 0.001)
    np.testing.assert_allclose(found.scores[0], expected, atol=1e-5)
    assert found.notes["r2"] == pytest.approx(r2, abs=1e-5) and found.notes["nonzero"] == np.count_nonzero(expected)
    assert found.stderr is None and not present[0].all()


def test_a_penalty_above_everything_says_so(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    found = noiser.attribute(lm, PROMPT, "lime:prior=lasso+alpha=100+samples=20")
    assert not found.scores.any() and "lower alpha" in found.notes["warnings"][0]
    few = noiser.attribute(lm, PROMPT, "lime:prior=lasso+samples=6", quantity="log_prob")
    assert not any("raise samples" in warning for warning in few.notes["warnings"]), "fewer subsets than units are its purpose"


@pytest.mark.parametrize("option, said", [("width=1", "leave width out"), ("alpha=0", "alpha above 0"), ("keep=1", "between 0 and 1")])
def test_combinations_without_sense_are_refused(tokenizer, option, said):
    with pytest.raises(OptionError, match=said):
        noiser.attribute(noiser.LanguageModel(tiny("llama"), tokenizer), PROMPT, f"lime:prior=lasso+{option}")
