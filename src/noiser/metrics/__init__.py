"""Measures of faithfulness, one file each. Importing this package enters them into METRICS, and those of other packages too."""

from importlib.metadata import entry_points

from noiser.metrics import (  # noqa: F401  (each registers itself)
    answerability,
    aopc,
    deletion,
    log_odds,
    minimum_top_p,
    soft,
    sufficiency,
)
from noiser.registry import METRICS, find_metric

__all__ = ["METRICS", "find_metric"]

for _entry_point in entry_points(group="noiser.metrics"):
    _entry_point.load()
