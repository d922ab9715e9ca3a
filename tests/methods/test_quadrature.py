"""Integrals along paths: exact on polynomials, and where a path jumps, refined until completeness holds.

Mutants caught: the halves' weights not scaled by their width; the left half's end taken from the whole stretch; `>` turned
to `<` in the test of a stretch; DEEPEST at 0 (no refinement); points counted once a stretch, not once a point.
"""

import numpy as np
import pytest
import torch

import noiser
from noiser.methods.integrated_gradients import gauss_legendre
from tests.conftest import tiny
from tests.toys import EmbeddedLM

IDS = (0, 1, 1, 0, 1)


class StepLM(EmbeddedLM):
    """Token 0's logit is a steep logistic of the first token's first dimension: almost all happens at one point of the path."""

    def answer(self, embeds):
        step = torch.sigmoid(400 * (embeds[:, 0, 0] - 0.3 * self.embedding.weight[IDS[0], 0]))
        return torch.stack([step, torch.zeros_like(step)], dim=-1)


def first_logit(logits):
    return logits[0]


@pytest.mark.parametrize("method", ["integrated_gradients", "sequential_integrated_gradients"])
def test_adaptive_points_find_the_step_that_fixed_ones_miss(tokenizer, method):
    model = StepLM(len(IDS))
    with torch.no_grad():
        model.embedding.weight[IDS[0], 0] = 1.0
    lm = noiser.LanguageModel(model, tokenizer)
    fixed = noiser.attribute(lm, IDS, method, first_logit, steps=8, aggregation="sum")
    found = noiser.attribute(lm, IDS, method, first_logit, aggregation="sum", tolerance=0.01)
    assert abs(fixed.scores[0].sum() - 1) > 0.1, "the effect must be there without refinement"
    assert found.scores[0].sum() == pytest.approx(1, abs=0.03)
    assert found.scores[0, 0] == pytest.approx(1, abs=0.03)
    points = np.array(found.notes["points"]).ravel()
    assert points[0] > 8
    assert (points[1:] == 8).all(), "a path without a step needs one stretch"
    assert not found.notes["warnings"]
    assert fixed.notes["warnings"]


@pytest.mark.parametrize("method", ["integrated_gradients", "sequential_integrated_gradients"])
def test_a_tighter_tolerance_closes_the_gap(tokenizer, method):
    lm = noiser.LanguageModel(tiny("gpt2"), tokenizer)
    gaps, points = [], []
    for tolerance in (0.5, 0.001):
        notes = noiser.attribute(lm, (7, 200, 31, 150, 31, 99), method, aggregation="sum", tolerance=tolerance, baseline="unk").notes
        gaps.append(np.abs(notes.get("completeness_gaps", notes.get("completeness_gap"))).max())
        points.append(np.sum(notes["points"]))
    assert gaps[1] < gaps[0] / 5
    assert points[1] > points[0]


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_gauss_legendre_is_exact_up_to_twice_its_points(steps):
    points, weights = gauss_legendre(steps)
    for degree in range(2 * steps):
        assert np.dot(weights, points**degree) == pytest.approx(1 / (degree + 1), abs=1e-12)
    assert np.dot(weights, points ** (2 * steps)) != pytest.approx(1 / (2 * steps + 1), abs=1e-12)
