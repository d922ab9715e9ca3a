"""Intervals that hold what they promise, and tests that are not too eager.

Mutants caught, each run: samples drawn instead of clusters; the mean over clusters for the mean over samples; the expansion by
Student's t left out; a one-sided p; Holm's running maximum left out; letters from neighbours in rank only.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from noiser.results.statistics import ClusterBootstrap, holm, rank_groups

TRIALS = 1200


def clustered(rng, clusters, size, within=1.0):
    """Values that share a part with their cluster: correlated inside it."""
    names = [str(cluster) for cluster in range(clusters) for _ in range(size)]
    return names, np.repeat(rng.normal(size=clusters), size) + within * rng.normal(size=clusters * size)


@pytest.mark.parametrize(("clusters", "size"), [(12, 5), (40, 3)])
def test_ninety_five_per_cent_intervals_hold_the_truth_that_often(clusters, size):
    rng = np.random.default_rng(0)
    held = {"clusters": 0, "naive": 0}
    groups = {"clusters": clustered(rng, clusters, size)[0], "naive": [str(sample) for sample in range(clusters * size)]}
    boots = {how: ClusterBootstrap(names, resamples=2000) for how, names in groups.items()}
    for _ in range(TRIALS):
        _, values = clustered(rng, clusters, size)
        for how, boot in boots.items():
            low, high = boot.interval(boot.means(values))
            held[how] += low <= 0 <= high
    coverage = {how: count / TRIALS for how, count in held.items()}
    print(f"{clusters} clusters of {size}: {coverage}")
    assert 0.93 <= coverage["clusters"] <= 0.97
    assert coverage["naive"] < 0.85, "samples of one cluster are not independent: counting them so must fail"


def test_unequal_clusters_are_weighed_by_their_samples():
    boot = ClusterBootstrap(["a", "a", "a", "b"], resamples=4000)
    means = boot.means(np.array([1.0, 1.0, 1.0, 5.0]))
    assert set(np.round(np.unique(means), 9)) == {1.0, 2.0, 5.0}
    assert np.mean(means == 2.0) == pytest.approx(0.5, abs=0.05)


def test_agrees_with_scipy_where_each_sample_is_a_cluster():
    values = np.random.default_rng(1).exponential(size=60)
    boot = ClusterBootstrap([str(n) for n in range(60)], resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2))
    resampled = boot.means(values)
    assert np.quantile(resampled, [0.025, 0.975]) == pytest.approx(list(theirs.confidence_interval), abs=0.01)
    assert resampled.std() == pytest.approx(theirs.standard_error, rel=0.03)
    low, high = boot.interval(resampled)
    assert low < theirs.confidence_interval.low
    assert high > theirs.confidence_interval.high, "expanded"
    half = stats.sem(values) * stats.t.ppf(0.975, 59)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05), "as wide as Student's"


def test_methods_that_do_not_differ_give_uniform_p_values():
    rng = np.random.default_rng(3)
    boot, found = None, []
    for _ in range(TRIALS):
        names, one = clustered(rng, 25, 4)
        _, other = clustered(rng, 25, 4)
        boot = boot or ClusterBootstrap(names, resamples=1000)
        difference = one - other
        found.append(boot.p_value(difference.mean(), boot.means(difference)))
    print("Kolmogorov-Smirnov:", stats.kstest(found, "uniform"))
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.02)


def test_p_value_is_the_t_test_of_a_mean():
    values = np.random.default_rng(4).normal(0.3, size=40)
    boot = ClusterBootstrap([str(n) for n in range(40)], resamples=50_000)
    theirs = stats.ttest_1samp(values, 0).pvalue
    assert boot.p_value(values.mean(), boot.means(values)) == pytest.approx(theirs, rel=0.1)
    assert boot.p_value(0.0, np.zeros(50)) == 1.0
    assert boot.p_value(0.2, np.full(50, 0.2)) == 0.0


def test_nothing_is_claimed_from_a_single_cluster_or_from_what_has_no_value():
    boot = ClusterBootstrap(["a", "a", "a"], resamples=100)
    assert boot.interval(boot.means(np.arange(3.0))) is None
    assert boot.p_value(1.0, boot.means(np.arange(3.0))) is None
    boot = ClusterBootstrap(["a", "b"], resamples=100)
    assert boot.interval(np.array([1.0, -np.inf])) is None


def test_the_same_draws_for_every_column():
    values = np.random.default_rng(5).normal(size=(30, 2, 3))
    boot = ClusterBootstrap([str(n // 3) for n in range(30)], resamples=500)
    joint = boot.means(values)
    np.testing.assert_allclose(joint[:, 1, 2], boot.means(values[:, 1, 2]))
    again = ClusterBootstrap([str(n // 3) for n in range(30)], resamples=500)
    assert again.means(values).tobytes() == joint.tobytes()


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.001, 0.5, 0.02, 0.013]) == pytest.approx([0.004, 0.5, 0.04, 0.039])
    assert holm([]) == []


@given(st.integers(1, 8).flatmap(lambda n: arrays(bool, (n, n))))
def test_rows_share_a_letter_if_and_only_if_they_do_not_differ(drawn):
    differ = (drawn | drawn.T) & ~np.eye(len(drawn), dtype=bool)
    letters = rank_groups(differ)
    for one in range(len(differ)):
        assert letters[one]
        for other in range(len(differ)):
            assert bool(set(letters[one]) & set(letters[other])) == (not differ[one, other])
