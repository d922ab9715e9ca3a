"""The fewest words that are enough for the judge, by method, and what it took to find them (figure 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

from noiser.evidence import Contender, Gauge, Number, Record
from noiser.stats import ClusterBootstrap
from noiser.summary import compared, few_clusters, number

METRIC = "minimum_top_p"


@dataclass(frozen=True)
class LeastRow:
    """One method or control."""

    method: str
    control: bool
    mean: Number
    """The share of the words still kept at the last right answer: the mean over the samples compared, in (0, 1]; lower is better."""
    shares: tuple[float, ...]
    """Of each sample compared, ascending."""
    out: int
    """Samples that are undefined, as the judge is wrong with all words."""
    calls: float
    """Clues that finding them took, before the cache, over all samples that have a value."""
    plain_calls: float
    """What dropping word after word would have taken."""

    @property
    def saved(self) -> float:
        """Clues saved by bisection."""
        return self.plain_calls - self.calls


@dataclass(frozen=True)
class LeastSummary:
    """One metric's label, so one judge; the smallest mean first among the methods, then the controls."""

    metric: str
    judge: str
    form: str
    samples: int
    """How many every row has: the ones that are compared."""
    clusters: int
    rows: tuple[LeastRow, ...]
    remarks: tuple[str, ...] = ()


def least_summaries(
    records: Sequence[Record], contenders: Sequence[Contender], gauges: Sequence[Gauge], seed: int = 0
) -> tuple[LeastSummary, ...]:
    """For every `minimum_top_p` among the gauges."""
    return tuple(_summary(records, contenders, each, seed) for each in gauges if each.metric == METRIC)


def _summary(records: Sequence[Record], contenders: Sequence[Contender], gauge: Gauge, seed: int) -> LeastSummary:
    found = compared(records, contenders, [gauge.label])
    boot = ClusterBootstrap(found.clusters, seed=seed) if found.values.size else None
    resampled = boot.means(found.values[..., 0]) if boot is not None else None
    rows = []
    for each in contenders:
        mean, shares = Number(None), ()
        if boot is not None and resampled is not None and each in found.rows:
            place = found.rows.index(each)
            values = found.values[:, place, 0]
            mean, shares = number(boot, float(values.mean()), resampled[:, place]), tuple(sorted(values.tolist()))
        own = [record for record in records if (record.metric, record.method) == (gauge.label, each.label)]
        counted = [record.also for record in own if {"calls", "plain_calls"} <= record.also.keys()]
        calls = (float(sum(also[name] for also in counted)) for name in ("calls", "plain_calls"))
        rows.append(LeastRow(each.label, each.control, mean, shares, sum(record.status == "undefined" for record in own), *calls))
    rows.sort(key=lambda row: (row.control, row.mean.value is None, row.mean.value))
    remarks = (*found.remarks, *(few_clusters(boot) if boot is not None else ()))
    size = (len(found.values), boot.clusters) if boot is not None else (0, 0)
    form = str(gauge.options.get("form", ""))
    return LeastSummary(gauge.label, gauge.judge, form, *size, tuple(rows), remarks)
