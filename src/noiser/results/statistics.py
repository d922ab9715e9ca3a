"""Intervals and tests for means over samples that come in clusters: templates, relations, documents."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from noiser.rng import generator

LEVEL = 0.95
MIN_CLUSTERS = 5
"""Below this number of clusters no interval reaches its nominal coverage, so none is computed."""
EXTRA_SKEW = 10.0
"""The skewness of few clusters underestimates the true one, so it is multiplied by 1 + EXTRA_SKEW / (effective number of clusters).
Chosen by simulation, see `benchmarks/RESULTS.md`, section "Intervals"."""
RESAMPLES = 10_000


class Clusters:
    """The cluster of every sample. Samples of one cluster resemble each other, so they must not count as independent."""

    def __init__(self, names: Sequence[str]) -> None:
        _, self._index, sizes = np.unique(np.array(names, dtype=str), return_inverse=True, return_counts=True)
        self.sizes: Float[np.ndarray, " clusters"] = sizes.astype(np.float64)

    def __len__(self) -> int:
        return len(self.sizes)

    def sums(self, values: Float[np.ndarray, "samples ..."]) -> Float[np.ndarray, "clusters ..."]:
        """The sum of each cluster's samples."""
        sums = np.zeros((len(self), *values.shape[1:]))
        np.add.at(sums, self._index, values)
        return sums


class ClusterJackknife:
    """Intervals and tests for smooth functions of means (ratios, differences), by leaving out one cluster at a time.

    The interval is Student's t around the estimate, with the jackknife's standard error. On the side of the skew it is stretched
    by the first term of the Cornish-Fisher expansion. It holds its level from 5 clusters on, also if their sizes differ. All
    functions take one column or many. A function of several columns (a difference) is paired, because each column leaves out the
    same clusters.

    Source: Efron & Stein 1981, doi:10.1214/aos/1176345462 (standard error); Hall 1983, Annals of Statistics 11, 569 to 576
    (expansion); Carter, Schnepel & Steigerwald 2017, doi:10.1162/REST_a_00639 (effective number of clusters).
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._clusters = Clusters(names)
        self.clusters = len(self._clusters)
        """How many there are."""
        sizes = self._clusters.sizes
        effective = sizes.sum() ** 2 / (sizes**2).sum()  # the number of clusters if all sizes are equal, else less
        self._freedom = max(effective - 1, 1.0)
        self._skew_factor = 1 + EXTRA_SKEW / effective

    def means(self, values: Float[np.ndarray, "samples ..."]) -> Float[np.ndarray, "clusters ..."]:
        """The mean over the samples of all clusters but one, for each cluster. 0 / 0, so NaN, if there is only one."""
        sums, sizes = self._clusters.sums(values), self._clusters.sizes
        with np.errstate(invalid="ignore"):
            return (sums.sum(0) - sums) / (sizes.sum() - sizes).reshape(-1, *(1,) * (values.ndim - 1))

    def interval(
        self, estimate: Float[np.ndarray, "..."] | float, left_out: Float[np.ndarray, "clusters ..."], level: float = LEVEL
    ) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """The lower and the upper end. `left_out` is the same function as the estimate, of the means without one cluster.

        Both ends are NaN if there are fewer than 5 clusters, or if the estimate or any value of `left_out` is not finite.
        """
        from scipy.stats import t

        estimate, error, skew = self._spread(estimate, left_out)
        reach = t.ppf((1 + level) / 2, self._freedom)
        stretch = reach**2 / 3 + 1 / 6
        below, above = (reach + np.maximum(side, 0.0) * stretch for side in (-skew, skew))
        return np.asarray(estimate - error * below), np.asarray(estimate + error * above)

    def p_value(self, estimate: Float[np.ndarray, "..."] | float, left_out: Float[np.ndarray, "clusters ..."]) -> Float[np.ndarray, "..."]:
        """Two-sided, of the hypothesis that the quantity is 0. It is below 0.05 exactly if the 95 % interval excludes 0.

        NaN if the interval is.
        """
        from scipy.stats import t

        estimate, error, skew = self._spread(estimate, left_out)
        ratio = estimate / np.where(error == 0, 1.0, error)
        side = np.maximum(-skew * np.sign(ratio), 0.0)
        beyond = np.maximum(np.abs(ratio) - side / 6, 0.0)
        reach = 2 * beyond / (1 + np.sqrt(1 + 4 / 3 * side * beyond))  # solves ratio = reach + side (reach^2 / 3 + 1 / 6)
        return np.where(error == 0, np.where(estimate == 0, 1.0, 0.0), 2 * t.sf(reach, self._freedom))

    def _spread(self, estimate: Any, left_out: Float[np.ndarray, "clusters ..."]) -> tuple[Any, Any, Any]:
        """The estimate, its standard error and the skewness of its distribution; NaN where there can be no interval."""
        with np.errstate(invalid="ignore"):
            influence = left_out.mean(0) - left_out
            squares = (influence**2).sum(0)
            error = np.sqrt((self.clusters - 1) / self.clusters * squares)
            skew = self._skew_factor * (influence**3).sum(0) / np.where(squares > 0, squares, 1.0) ** 1.5
        usable = np.isfinite(left_out).all(0) & np.isfinite(estimate) & (self.clusters >= MIN_CLUSTERS)
        error = np.where(error > 1e-12 * np.abs(estimate), error, 0.0)  # equal values differ by rounding
        return np.where(usable, estimate, np.nan), np.where(usable, error, np.nan), np.where(error > 0, skew, 0.0)


class ClusterBootstrap:
    """Intervals for statistics that jump, such as rank correlations: whole clusters are drawn with replacement.

    Every quantity sees the same draws. For smooth statistics use `ClusterJackknife`: over few clusters this interval is too narrow.
    """

    def __init__(self, names: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> None:
        self._clusters = Clusters(names)
        self.clusters = count = len(self._clusters)
        """How many there are."""
        drawn = generator(seed, "bootstrap", count).multinomial(count, np.full(count, 1 / count), resamples)
        self._drawn = drawn.astype(np.float64)

    def means(self, values: Float[np.ndarray, "samples ..."]) -> Float[np.ndarray, "resamples ..."]:
        """The mean over the samples of each resample."""
        sums = self._clusters.sums(values).reshape(self.clusters, -1)
        return (self._drawn @ sums / (self._drawn @ self._clusters.sizes)[:, None]).reshape(-1, *values.shape[1:])

    def interval(self, resampled: Float[np.ndarray, " resamples"], level: float = LEVEL) -> tuple[float, float] | None:
        """The expanded percentile interval: its quantiles are further out than the level, by as much as Student's t is wider than
        a normal. None if there are fewer than 5 clusters, or if a resample has no value.

        Source: Hesterberg 2014, arXiv:1411.5279, section 4.
        """
        from scipy.stats import norm, t

        if self.clusters < MIN_CLUSTERS or not np.isfinite(resampled).all():
            return None
        reach = t.ppf((1 - level) / 2, self.clusters - 1) * np.sqrt(self.clusters / (self.clusters - 1))
        low, high = np.quantile(resampled, [norm.cdf(reach), norm.cdf(-reach)])
        return float(low), float(high)


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
