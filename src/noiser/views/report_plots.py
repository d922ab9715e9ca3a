"""The plots of a run's report: what faithfulness costs, and where on a prompt the scores lie."""

from collections.abc import Mapping, Sequence
from typing import Any

from noiser.evidence import Number
from noiser.views.escape import visible
from noiser.views.plots import GREY, METHOD, SETTINGS, saved

Point = tuple[str, float, Number]
"""Name, seconds, faithfulness."""
SHADES = {"relative": "#2166ac", "capital": "#67a9cf", "main part": "0.75", "distractor": "#b2182b"}
"""Of the parts of a prompt; readable for colour-blind people and in grey."""


def cost(points: Sequence[Point], title: str, form: str) -> bytes:
    """Faithfulness with its interval against the seconds that a sample takes, on a logarithmic axis; random is
    at 0. As `svg` or `png`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for name, seconds, found in points:
            assert found.value is not None
            if found.low is not None and found.high is not None:
                axes.plot([seconds, seconds], [found.low, found.high], color=METHOD, alpha=0.5, linewidth=2)
            axes.plot([seconds], [found.value], "o", color=METHOD)
            axes.annotate(visible(name), (seconds, found.value), xytext=(6, 3), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlabel("seconds a sample (median), logarithmic")
        axes.set_ylabel("faithfulness, 95 % interval; higher is better")
        _finish(axes, title)
        axes.margins(x=0.15)
        return saved(figure, form)


def shares(rows: Mapping[str, Mapping[str, Number]], title: str, form: str) -> bytes:
    """For each method a bar, divided into the shares of its score that lie on each part of the prompt; the interval of each
    share as a line at its end. As `svg` or `png`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 1.6 + 0.34 * max(1, len(rows))), layout="constrained")
        axes = figure.add_subplot()
        drawn: set[str] = set()
        for height, own in enumerate(reversed(list(rows.values()))):
            left = 0.0
            for part, found in own.items():
                width = found.value or 0.0
                axes.barh(height, width, left=left, color=SHADES[part], height=0.7, label=part if part not in drawn else None)
                drawn.add(part)
                if found.low is not None and found.high is not None:
                    axes.plot([left + found.low, left + found.high], [height, height], color="black", linewidth=0.8)
                left += width
        axes.set_yticks(range(len(rows)), [visible(name) for name in reversed(list(rows))])
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of the positive scores, 95 % interval")
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.18), ncols=4, frameon=False, fontsize=8)
        _finish(axes, title)
        return saved(figure, form)


def _finish(axes: Any, title: str) -> None:
    axes.set_title(visible(title), fontsize=10, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
