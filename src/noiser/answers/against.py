"""Does a method that is faithful answer well? Faithfulness against answerability, on the same samples (figure 4)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from noiser.answers.rates import METRIC
from noiser.evidence import Contender, Gauge, Number, Record
from noiser.stats import ClusterBootstrap
from noiser.summary import FAITHFULNESS, REFERENCE, compared, few_clusters, log_ratio, number


@dataclass(frozen=True)
class Point:
    """One method or control."""

    method: str
    control: bool
    faithfulness: Number
    """Sum of the log-ratios of Soft-NS and Soft-NC to random; higher is better."""
    rate: Number
    """How often the answer is right with the kept words; higher is better."""


@dataclass(frozen=True)
class Correlation:
    """One way of measuring faithfulness against one judge."""

    faithfulness: str
    answerability: str
    """The two labels."""
    judge: str
    form: str
    points: tuple[Point, ...]
    """Highest rate first among the methods, then the controls."""
    spearman: Number
    """Spearman's rank correlation over the methods, controls left out, in [-1, 1]; its interval by cluster bootstrap over samples,
    which says how well the ranks are known, not what other methods would do. None for fewer than three methods, or where all are
    equal."""
    methods: int
    """How many it is over."""
    samples: int
    """How many every row has under all three metrics."""
    remarks: tuple[str, ...] = ()


def faithfulness_against(
    records: Sequence[Record], contenders: Sequence[Contender], gauges: Sequence[Gauge], seed: int = 0
) -> tuple[Correlation, ...]:
    """For every way in which both Soft-NS and Soft-NC were measured, and every `answerability`; none without the random row."""
    if not any(each.label == REFERENCE for each in contenders):
        return ()
    answers = [each for each in gauges if each.metric == METRIC]
    return tuple(_correlation(records, contenders, pair, answer, seed) for pair in _pairs(gauges) for answer in answers)


def _pairs(gauges: Sequence[Gauge]) -> Iterator[tuple[Gauge, Gauge]]:
    for one in gauges:
        if one.metric == "soft_ns":
            yield from ((one, other) for other in gauges if other.metric == "soft_nc" and other.options == one.options)


def _correlation(
    records: Sequence[Record], contenders: Sequence[Contender], pair: tuple[Gauge, Gauge], answer: Gauge, seed: int
) -> Correlation:
    found = compared(records, contenders, [pair[0].label, pair[1].label, answer.label])
    label = pair[0].label.replace("soft_ns", FAITHFULNESS, 1)
    about = (label, answer.label, answer.judge, str(answer.options.get("forms", "")).split(",")[0])
    reference = next((place for place, row in enumerate(found.rows) if row.label == REFERENCE), None)
    if not found.values.size or reference is None:
        return Correlation(*about, (), Number(None), 0, 0, tuple(found.remarks))
    boot = ClusterBootstrap(found.clusters, seed=seed)
    whole, resampled = found.values.mean(0), boot.means(found.values)
    faithful, faithful_resampled = (log_ratio(each[..., :2], reference) for each in (whole, resampled))
    points = [
        Point(
            row.label,
            row.control,
            number(boot, float(faithful[place]), faithful_resampled[:, place]),
            number(boot, float(whole[place, 2]), resampled[:, place, 2]),
        )
        for place, row in enumerate(found.rows)
    ]
    methods = [place for place, row in enumerate(found.rows) if not row.control and np.isfinite(faithful[place])]
    rho = Number(None)
    if len(methods) > 2:
        estimate = spearman(faithful[None, methods], whole[None, methods, 2])[0]
        rho = number(boot, float(estimate), spearman(faithful_resampled[:, methods], resampled[:, methods, 2]))
    points.sort(key=lambda point: (point.control, -(point.rate.value or 0.0)))
    return Correlation(*about, tuple(points), rho, len(methods), len(found.samples), (*found.remarks, *few_clusters(boot)))


def spearman(one: Float[np.ndarray, "draws methods"], other: Float[np.ndarray, "draws methods"]) -> Float[np.ndarray, " draws"]:
    """Of each draw: Pearson's correlation of the ranks, equal values sharing the mean of theirs; NaN where all are equal."""
    from scipy.stats import rankdata

    ranks = [rankdata(each, axis=1) for each in (one, other)]
    first, second = (each - each.mean(1, keepdims=True) for each in ranks)
    with np.errstate(all="ignore"):  # 0 / 0 is said as a number that is missing
        return (first * second).sum(1) / np.sqrt((first**2).sum(1) * (second**2).sum(1))
