"""Intervals and tests for means over samples that come in clusters: templates, relations, documents."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from noiser.rng import generator

RESAMPLES = 10_000
LEVEL = 0.95


class ClusterBootstrap:
    """Whole clusters drawn with replacement, the same draws for every quantity, so that differences stay paired.

    Samples of one cluster resemble each other; drawing them one by one would count them as independent, and the interval
    would be too narrow.
    """

    def __init__(self, clusters: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> None:
        _, self._of, sizes = np.unique(np.array(clusters, dtype=str), return_inverse=True, return_counts=True)
        self.clusters = len(sizes)
        """How many there are."""
        drawn = generator(seed, "bootstrap", self.clusters).multinomial(self.clusters, np.full(self.clusters, 1 / self.clusters), resamples)
        self._drawn = drawn.astype(np.float64)
        self._sizes = self._drawn @ sizes

    def means(self, values: Float[np.ndarray, "samples ..."]) -> Float[np.ndarray, "resamples ..."]:
        """The mean over the samples of each resample."""
        sums = np.zeros((self.clusters, *values.shape[1:]))
        np.add.at(sums, self._of, values)
        found = self._drawn @ sums.reshape(self.clusters, -1) / self._sizes[:, None]
        return found.reshape(-1, *values.shape[1:])

    def interval(self, resampled: Float[np.ndarray, " resamples"], level: float = LEVEL) -> tuple[float, float] | None:
        """The expanded percentile interval: quantiles further out than the level, by as much as Student's t is wider than a
        normal for so many clusters. None where there is one cluster only, or where a resample has no value.

        Source: Hesterberg 2014, arXiv:1411.5279, section 4.
        """
        from scipy.stats import norm, t

        if self.clusters < 2 or not np.isfinite(resampled).all():
            return None
        reach = t.ppf((1 - level) / 2, self.clusters - 1) * self._unbiased
        low, high = np.quantile(resampled, [norm.cdf(reach), norm.cdf(-reach)])
        return float(low), float(high)

    def p_value(self, estimate: float, resampled: Float[np.ndarray, " resamples"]) -> float | None:
        """Two-sided, of the hypothesis that the quantity is 0: Student's t with the bootstrap's standard error, and one degree
        of freedom less than there are clusters. None where there is one cluster only, or where a resample has no value."""
        from scipy.stats import t

        if self.clusters < 2 or not np.isfinite(resampled).all():
            return None
        error = float(resampled.std()) * self._unbiased
        if error <= 1e-15 * abs(estimate) or error == 0:
            return 1.0 if estimate == 0 else 0.0
        return float(2 * t.sf(abs(estimate) / error, self.clusters - 1))

    @property
    def _unbiased(self) -> float:
        """A bootstrap's spread is too small by this factor."""
        return float(np.sqrt(self.clusters / (self.clusters - 1)))


def wilson(right: int, of: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a rate, each sample counted as independent of the others. `of` is at least 1."""
    from scipy.stats import binomtest

    found = binomtest(right, of).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values adjusted so that the chance of any false rejection among them stays below the level."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * (len(order) - np.arange(len(order)))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return adjusted.tolist()


def rank_groups(differ: Bool[np.ndarray, "rows rows"]) -> list[str]:
    """Letters for rows in their order of rank: two rows share one if and only if they do not differ.

    Source: the insert-and-absorb algorithm of Piepho 2004, doi:10.1198/1061860043515.
    """
    groups: list[set[int]] = [set(range(len(differ)))]
    for one, other in combinations(range(len(differ)), 2):
        if differ[one, other]:
            cut = [group - {gone} for group in groups if {one, other} <= group for gone in (one, other)]
            groups = [group for group in groups if not {one, other} <= group]
            for part in sorted(cut, key=len, reverse=True):
                if part and not any(part <= group for group in groups):
                    groups.append(part)
    groups.sort(key=sorted)
    return ["".join(_letter(place) for place, group in enumerate(groups) if row in group) for row in range(len(differ))]


def _letter(place: Any) -> str:
    return chr(ord("a") + place) if place < 26 else f"({place})"
