"""On every family, what Noiser gives is what the plain algorithm gives: T separate bisections, full forwards, no cache.

Mutants caught, among others: the prefix one position too long (`prefix.position <= queries.first` in layout.py); the
sliding window off by one; position ids that count from 0 in each row; the last halving left out of `exact_minimum`.
"""

import numpy as np
import pytest
from benchmarks.plain import separate_bisections

import noiser
from noiser.methods.noiser.noise import paper_noise
from tests.conftest import TINY, tiny

PROMPT = (7, 200, 31, 150, 31, 99, 12, 250, 77, 5)
FULL_LAYOUT = {"bloom"}
"""Families whose attention takes no position ids, so that rows are computed whole."""


@pytest.mark.parametrize("family", TINY)
def test_exact_is_what_separate_bisections_give(family, tokenizer):
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    ours = noiser.attribute(lm, PROMPT, search="exact", seed=3)
    noise = paper_noise(10, 64, 3, PROMPT)
    plain = separate_bisections(lm.model, PROMPT, noise)
    assert ours.notes["k"] == plain.k
    assert 0 < plain.k < 1023 / 1024, "the example must not sit at an end of the bracket"
    np.testing.assert_allclose(ours.scores[0], plain.scores, atol=1e-5)
    assert np.abs(plain.scores).max() > 1e-3, "the noise must do something"
    assert ours.notes["layout"].split(":")[0] == ("full" if family in FULL_LAYOUT else "packed"), ours.notes["layout"]
    assert ours.cost.forward_tokens < plain.forward_tokens


@pytest.mark.parametrize("family", TINY)
def test_fast_is_exact_where_flips_are_monotone(family, tokenizer):
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    fast = noiser.attribute(lm, PROMPT, seed=3)
    exact = noiser.attribute(lm, PROMPT, seed=3, search="exact")
    if fast.notes["non_monotone"] == exact.notes["non_monotone"] == 0:
        assert fast.notes["k"] == exact.notes["k"]
        np.testing.assert_allclose(fast.scores, exact.scores, atol=1e-5)
    assert not fast.notes["flipped"], "no token may flip at the k that is reported"


def test_another_target_keeps_the_bound_of_the_prediction(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    own, other = (noiser.attribute(lm, PROMPT, target=target, search="exact") for target in (None, 17))
    plain = separate_bisections(lm.model, PROMPT, paper_noise(10, 64, 0, PROMPT), target=17)
    assert own.notes["k"] == other.notes["k"] == plain.k
    assert other.target.rank > 0
    np.testing.assert_allclose(other.scores[0], plain.scores, atol=1e-5)
