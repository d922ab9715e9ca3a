"""Intervals, ranges of ranks and certain tops: against brute force, and against draws whose truth is known.

Mutants caught, each run: the normal quantile for Student's t; one tail for two; `together` left out (some top is wrong too often); the
ranges of equal scores apart; `low` and `high` exchanged in `above`; `<= k` as `< k`; later columns ranked too.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from noiser.errors import OptionError
from noiser.results.attribution import Attribution, Cost, Target
from noiser.results.scores import critical_value, half_widths, rank_ranges
from noiser.text.prompt import Prompt


def attribution(scores, stderr=None, dof=None, seed=0, contexts=None):
    scores = np.atleast_2d(np.array(scores, dtype=float))
    seq = scores.shape[1]
    prompt = Prompt("x" * seq, tuple(range(seq)), ("x",) * seq, (False,) * seq, tuple((n, n + 1) for n in range(seq)))
    targets = tuple(Target((5,), (" y",), 0.5, 0, context=context) for context in contexts or [seq] * len(scores))
    error = None if stderr is None else np.atleast_2d(np.array(stderr, dtype=float))
    return Attribution(scores, prompt, targets, "m", {}, "m", "r", seed, Cost(1.0, 1, 1, 1), stderr=error, dof=dof)


def brute_force(low, high):
    return [
        [1 + sum(other > high[i] for other in low), len(low) - sum(other < low[i] for other in high)] for i in range(len(low))
    ]  # fmt: skip


def test_an_interval_is_students_t():
    assert critical_value(9) == pytest.approx(stats.t.ppf(0.975, 9))
    assert critical_value(None) == pytest.approx(1.959964, abs=1e-6)
    assert critical_value(4, 0.9, together=10) == pytest.approx(stats.t.ppf(1 - 0.1 / 20, 4))
    found = attribution([[1.0, 2.0], [3.0, 4.0]], [[0.1, 0.2], [0.3, 0.0]], (9, None)).interval()
    np.testing.assert_allclose(found, [[0.1 * 2.262157, 0.2 * 2.262157], [0.3 * 1.959964, 0.0]], rtol=1e-6)
    assert half_widths(None, None) is None
    assert attribution([1.0]).interval() is None


@pytest.mark.parametrize("seed", range(5))
def test_ranges_are_those_of_the_intervals_that_hold_together(seed):
    rng = np.random.default_rng(seed)
    scores, stderr = rng.normal(size=12).round(1), rng.uniform(0, 0.2, 12) * (rng.random(12) < 0.8)
    half = stderr * stats.t.ppf(1 - 0.05 / 24, 9)
    assert rank_ranges(scores, stderr, 9).tolist() == brute_force(scores - half, scores + half)
    assert rank_ranges(scores, None, None).tolist() == brute_force(scores, scores)
    assert rank_ranges(np.array([2.0, 1.0, 1.0]), None, None).tolist() == [[1, 1], [2, 3], [2, 3]]


def test_certain_top():
    apart = attribution([0.1, 0.9, 0.5, 0.52], [0.01] * 4, (9,))
    assert apart.ranks().tolist() == [[4, 4], [1, 1], [2, 3], [2, 3]]
    assert [apart.certain_top(k) for k in (1, 2, 3, 4)] == [(1,), (1,), (1, 3, 2), (1, 3, 2, 0)]
    vague = attribution([0.1, 0.9, 0.5, 0.52], [1.0] * 4, (9,))
    assert (vague.certain_top(3), vague.certain_top(4)) == ((), (1, 3, 2, 0))


def test_only_tokens_before_a_target_are_ranked():
    rows = attribution([[0.5, 0.1, 0.0], [0.2, 0.3, 0.9]], [[0.01, 0.01, 0.0], [0.01, 0.01, 0.01]], (9, 9), contexts=[2, 3])
    assert rows.ranks(0).tolist() == [[1, 1], [2, 2]]
    assert rows.certain_top(1, target=1) == (2,)


def test_a_method_without_draws_is_certain_and_one_without_errors_is_not_known():
    assert attribution([0.2, 0.3, 0.2], seed=None).certain_top(1) == (1,)
    assert attribution([0.2, 0.3, 0.2], seed=None).certain_top(2) == (1,)
    with pytest.raises(OptionError, match="draws at random and gives no standard errors"):
        attribution([0.2, 0.3]).ranks()


def test_a_sum_has_at_most_the_sum_of_the_errors():
    found = replace(attribution([0.5, 0.3, 0.1], [0.1, 0.2, 0.3], (9,)), seed=1).by("word")
    assert found.units.texts == ("xxx",)
    np.testing.assert_allclose(found.stderr, [[0.6]])
    assert found.to_dict()["stderr"] == [[pytest.approx(0.6)]]
    np.testing.assert_allclose(found.interval(), [[0.6 * stats.t.ppf(0.975, 9)]])
    assert found.ranks().tolist() == [[1, 1]]
    assert "stderr" not in attribution([0.5]).by("word").to_dict()


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_a_certain_top_is_wrong_in_at_most_one_case_of_twenty(shared):
    """Ten draws, eight close means; errors that are independent, or mostly shared. Of 2,000 cases at most 120 may be wrong: 100, and
    two standard errors."""
    rng = np.random.default_rng(0)
    means = np.linspace(0, 4, 8)
    wrong = said = 0
    for _ in range(2000):
        draws = shared * rng.normal(size=(1, 10)) * np.where(np.arange(8) % 2, 1, -1)[:, None] + (1 - shared**2) ** 0.5 * rng.normal(
            size=(8, 10)
        )
        values = means[:, None] + draws
        stderr = values.std(1, ddof=1) / 10**0.5
        ranges = rank_ranges(values.mean(1), stderr, 9)
        true = 8 - np.arange(8)
        wrong += bool(((true < ranges[:, 0]) | (true > ranges[:, 1])).any())
        said += int((ranges[:, 1] - ranges[:, 0] < 7).sum())
    print(f"wrong {wrong / 2000:.1%}; {said / 2000:.1f} of 8 ranges leave a place out")
    assert wrong <= 120
    assert said > 2000
