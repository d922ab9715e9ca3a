"""Measures of faithfulness, one file each. Importing this package registers them in METRICS, and those of other packages too."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from noiser.errors import OptionError
from noiser.metrics import (  # noqa: F401  (each registers itself)
    answerability,
    aopc,
    deletion,
    log_odds,
    minimum_top_p,
    soft,
    sufficiency,
)
from noiser.registry import METRICS, MetricSpec, Selection, by_label, check_distinct, find_metric, read_label

__all__ = ["METRICS", "find_metric", "parse", "parse_all"]

for _entry_point in entry_points(group="noiser.metrics"):
    _entry_point.load()


def parse(label: str | MetricSpec, options: Mapping[str, Any] | None = None, *, seed: int | None = None) -> MetricSpec:
    """A metric and all its options, checked, from a label such as `soft_ns:protocol=paper+masks=32`.

    `options` adds options to those in the label. `seed` is the default of the option `seed`, if the metric has one. A
    specification is returned as it is.

    Raises OptionError for an unknown metric, an unknown option or a wrong value, if the label and `options` give one option two
    values, and for `options` beside a specification.
    """
    if isinstance(label, MetricSpec):
        if options:
            raise OptionError(f"{label.label} is parsed already: set {', '.join(options)} before you parse it")
        return label
    if not isinstance(label, str):
        raise OptionError(f"a metric must be given by its name; got {label!r}")
    metric = find_metric(read_label(label)[0])
    return MetricSpec(label, metric, metric.resolve_label(label, options, seed))


def parse_all(metrics: Selection[MetricSpec], *, seed: int | None = None, empty: bool = False) -> list[MetricSpec]:
    """`parse` for several metrics: labels or specifications in a sequence, or a mapping from labels to options.

    Raises OptionError as `parse` does, if one label, or one metric with the same options, occurs twice, and for no metrics unless
    `empty` is True.
    """
    items = by_label(metrics, "metrics", empty=empty).items()
    specs = [parse(value, seed=seed) if isinstance(value, MetricSpec) else parse(label, value, seed=seed) for label, value in items]
    check_distinct(specs)
    return specs
