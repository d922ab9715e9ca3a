"""The share of the masks in what makes samples differ."""

import numpy as np
import pytest

from noiser.results.records import MethodRow, MetricColumn, Record
from noiser.results.tables import summarise

ROWS = [MethodRow("occlusion", "occlusion", {}, False), MethodRow("random", "random", {}, True)]


def remarks(masks: int, noise: float, spread: float, slope: float = 0.0) -> list[str]:
    """Of a table of 600 samples whose masks have a known variance around a line, which is the same for all."""
    rng = np.random.default_rng(0)
    records = []
    for sample in range(600):
        for row in ROWS:
            line = np.linspace(-slope, slope, masks)
            values = 1 + spread * rng.standard_normal() + line + noise * rng.standard_normal(masks)
            records.append(Record(str(sample), None, row.label, "soft_ns", "ok", float(values.mean()), steps=({"masks": values.tolist()},)))
    column = MetricColumn("soft_ns", "soft_ns", {"masks": masks}, "higher", True)
    (summary,) = summarise(records, ROWS, [column])
    return [remark for remark in summary.remarks if "random masks" in remark]


@pytest.mark.parametrize(("noise", "spread"), [(0.4, 0.1), (0.4, 0.2)])
def test_the_share_is_that_of_the_closed_form(noise, spread):
    """noise^2 / masks of noise^2 / masks + spread^2. Mutant: the sum of squares is not halved."""
    (remark,) = remarks(16, noise, spread)
    expected = noise**2 / 16 / (noise**2 / 16 + spread**2)
    assert float(remark.split("%")[0]) / 100 == pytest.approx(expected, abs=0.06)
    assert "16 random masks" in remark


def test_what_all_samples_share_is_no_noise():
    """Mutant: the plain variance of the masks, which the budgets of `matched` differ by."""
    assert remarks(16, 0.1, 0.2, slope=0.5) == []


def test_many_masks_say_nothing():
    """Mutant: a remark whatever the share."""
    assert remarks(256, 0.4, 0.2) == []
