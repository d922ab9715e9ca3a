"""One plot for each metric: every row with its interval, controls set apart. matplotlib is imported when one is drawn."""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from noiser.results.answer_comparison import Correlation, LeastSummary, Point
from noiser.results.records import Number, Row, Summary
from noiser.storage import write_file
from noiser.views.escape import visible
from noiser.views.palette import OPPOSES, SUPPORTS

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
    write_file(path, forest_plot(summary, model, path.suffix[1:]))


def forest_plot(summary: Summary, model: str, form: str) -> bytes:
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


CostPoint = tuple[str, float, Number]
"""Name, seconds, faithfulness."""
SHADES = {"relative": "#2166ac", "capital": "#67a9cf", "main part": "0.75", "distractor": "#b2182b"}
"""Of the parts of a prompt; readable for colour-blind people and in grey."""


def cost_plot(points: Sequence[CostPoint], title: str, form: str) -> bytes:
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


def share_plot(rows: Mapping[str, Mapping[str, Number]], title: str, form: str) -> bytes:
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


HEIGHT = 0.7
"""Of a row's curve where all samples are answered; the next row begins at 1."""
LIGHT = "0.7"
LONG = 34
"""Characters of a label at the side of a scatter; a longer one is broken after its options' signs, or where it has to be."""


def minimal_words_plot(summary: LeastSummary, title: str, form: str) -> bytes:
    """For each method the share of samples that so few words or fewer are enough for, as a grey step, and the mean with its
    interval below. As `svg` or `png`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = [row for row in summary.rows if row.mean.value is not None]
    with rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 1.6 + 0.42 * max(1, len(rows))), layout="constrained")
        axes = figure.add_subplot()
        for height, row in enumerate(reversed(rows)):
            steps = [0.0, *row.shares, 1.0]
            tops = [height + HEIGHT * place / len(row.shares) for place in range(len(row.shares) + 1)]
            axes.fill_between(steps, height, [*tops, tops[-1]], step="post", color="0.85", linewidth=0)
            colour, mark = (GREY, "s") if row.control else (METHOD, "o")
            _interval(axes, row.mean, height, colour)
            axes.plot([row.mean.value or 0.0], [height], mark, color=colour, markersize=5)
        names = [visible(row.method) + " (control)" * row.control for row in reversed(rows)]
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.4, max(1, len(rows)))
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of words at the last right answer; lower is better\n"
                        "dots: mean, 95 % interval\nshaded: share of samples for which so few are enough", fontsize=9)  # fmt: skip
        axes.set_title(f"{visible(title)}\n{summary.samples} samples, {summary.clusters} clusters", fontsize=10, loc="left")
        _open(axes, ("top", "right", "left"))
        return saved(figure, form)


def _interval(axes: Any, found: Number, height: int, colour: Any) -> None:
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [height, height], color=colour, linewidth=2, solid_capstyle="round", alpha=0.6)


def correlation_plot(found: Correlation, title: str, form: str) -> bytes:
    """Each method's faithfulness and rate with both intervals; names at the side, controls in grey. As `svg` or `png`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    points = [each for each in found.points if each.faithfulness.value is not None and each.rate.value is not None]
    with rc_context(SETTINGS):
        figure = Figure(figsize=(8.4, max(4.6, 1.6 + 0.26 * len(points))), layout="constrained")
        axes = figure.add_subplot()
        for each in points:
            _cross(axes, each)
        axes.margins(x=0.08)
        bottom, top = (min(0.0, axes.get_ylim()[0]), axes.get_ylim()[1])
        axes.set_ylim(bottom, top)
        _labels(axes, [(each.method, each.control, each.faithfulness.value or 0.0, each.rate.value or 0.0) for each in points])
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlabel("faithfulness: log(mean / mean of random), 95 % interval; higher is better")
        axes.set_ylabel("answerability: rate, 95 % interval; higher is better")
        rho = found.spearman.value
        said = "no rank correlation" if rho is None else f"Spearman's rank correlation of {found.methods} methods {rho:+.2f}"
        axes.set_title(f"{visible_lines(title)}\n{said}, {found.samples} samples", fontsize=10, loc="left")
        _open(axes, ("top", "right"))
        return saved(figure, form)


def _cross(axes: Any, point: Point) -> None:
    """A dot with an interval each way."""
    colour, mark = (LIGHT, "s") if point.control else (METHOD, "o")
    x, y = point.faithfulness, point.rate
    if x.low is not None and x.high is not None:
        axes.plot([x.low, x.high], [y.value, y.value], color=colour, alpha=0.5, linewidth=1.5)
    if y.low is not None and y.high is not None:
        axes.plot([x.value, x.value], [y.low, y.high], color=colour, alpha=0.5, linewidth=1.5)
    axes.plot([x.value], [y.value], mark, color=colour, markersize=6)


def _labels(axes: Any, points: Sequence[tuple[str, bool, float, float]]) -> None:
    """Names in a column at the right, each joined to its point, in the order of the points' heights so that the lines
    hardly cross."""
    bottom, top = axes.get_ylim()
    ordered = sorted(points, key=lambda point: (point[3], point[2]))
    places = spread_apart([(y - bottom) / (top - bottom) for *_, y in ordered], 0.9 / max(12, len(points)))
    for (name, control, x, y), place in zip(ordered, places, strict=True):
        axes.annotate(
            break_name(visible(name)), (x, y), xytext=(1.03, place), textcoords="axes fraction", va="center", fontsize=8, linespacing=0.9,
            color=GREY if control else "black", arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def spread_apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights in [0, 1], ascending as those wanted, at least `gap` apart where that many fit: half way between moving those that
    are too near up, and moving them down."""
    down = [1.0 - place for place in _upwards([1.0 - place for place in reversed(wanted)], gap)][::-1]
    return [(one + other) / 2 for one, other in zip(_upwards(wanted, gap), down, strict=True)]


def _upwards(wanted: Sequence[float], gap: float) -> list[float]:
    found: list[float] = []
    for place in wanted:
        found.append(max(place, found[-1] + gap) if found else max(0.0, place))
    limit = 1.0
    for place in reversed(range(len(found))):
        found[place] = min(found[place], limit)
        limit = found[place] - gap
    return found


def break_name(name: str) -> str:
    """In lines of at most LONG characters: broken after a colon or plus where there is one."""
    lines = [""]
    for character in name:
        cut = max(lines[-1].rfind(sign) for sign in ":+") + 1 if len(lines[-1]) >= LONG else -1
        if cut >= 0:
            cut = cut or LONG
            lines[-1:] = [lines[-1][:cut], lines[-1][cut:]]
        lines[-1] += character
    return "\n".join(lines)


def visible_lines(text: str) -> str:
    """Escaped line by line."""
    return "\n".join(map(visible, text.split("\n")))


def _open(axes: Any, gone: Sequence[str]) -> None:
    for side in gone:
        axes.spines[side].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
