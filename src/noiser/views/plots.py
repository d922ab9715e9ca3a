"""One plot for each metric: every row with its interval, controls set apart. matplotlib is imported when one is drawn."""

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from noiser.evidence import Number, Row, Summary
from noiser.views.colour import OPPOSES, SUPPORTS
from noiser.views.escape import visible

METHOD, CONTROL = (tuple(channel / 255 for channel in colour) for colour in (SUPPORTS, OPPOSES))
GREY = "0.45"
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "noiser",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "text.usetex": False,
    "text.parse_math": False,
}
DATELESS = {"svg": {"Date": None}, "png": {"Software": None}}
"""So that the same numbers give the same bytes."""


def save_plots(summaries: Sequence[Summary], model: str, folder: Path) -> list[Path]:
    """Write an SVG and a PNG for each metric into `folder`, which is made if need be; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for summary in summaries:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", summary.metric)
        for form in ("svg", "png"):
            path = folder / f"{name}.{form}"
            draw(summary, model, path)
            paths.append(path)
    return paths


def draw(summary: Summary, model: str, path: Path) -> None:
    """One metric's plot, in the form that the path ends with."""
    path.write_bytes(forest(summary, model, path.suffix[1:]))


def forest(summary: Summary, model: str, form: str) -> bytes:
    """One metric's plot as `svg` or `png`: a dot and a bar a row, best on top, controls as squares."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = [row for row in summary.rows if _shown(row).value is not None]
    with rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 1.5 + 0.3 * max(1, len(rows))), layout="constrained")
        axes = figure.add_subplot()
        relative = any(row.log_ratio is not None for row in rows)
        _rows(axes, rows)
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":") if relative else None
        what = "log(mean / mean of random)" if relative else "mean"
        axes.set_xlabel(f"{what}, 95 % interval; {summary.better} is better")
        said = f"{visible(model)}: {summary.samples} samples, {summary.clusters} clusters"
        axes.set_title(f"{visible(summary.metric)}\n{said}", fontsize=10, loc="left")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.grid(axis="x", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        return saved(figure, form)


def saved(figure: Any, form: str) -> bytes:
    """A matplotlib figure as a file's content: the same bytes for the same figure."""
    data = BytesIO()
    figure.savefig(data, format=form, dpi=150, metadata=DATELESS[form])
    return data.getvalue()


def _shown(row: Row) -> Number:
    return row.log_ratio if row.log_ratio is not None else row.mean


def _rows(axes: Any, rows: Sequence[Row]) -> None:
    for height, row in enumerate(reversed(rows)):
        found = _shown(row)
        colour, mark = (CONTROL, "s") if row.control else (METHOD, "o")
        if found.low is not None:
            axes.plot([found.low, found.high], [height, height], color=colour, linewidth=2, solid_capstyle="round", alpha=0.6)
        axes.plot([found.value], [height], mark, color=colour, markersize=6)
    groups = axes.secondary_yaxis("right")
    groups.set_yticks(range(len(rows)), [row.group for row in reversed(rows)])
    groups.tick_params(length=0)
    groups.spines["right"].set_visible(False)
    axes.set_yticks(range(len(rows)), [visible(row.method) + " (control)" * row.control for row in reversed(rows)])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.7, len(rows) - 0.3)
