"""Plots of evaluations and reports, as SVG or PNG. matplotlib is imported when a plot is drawn."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from noiser.errors import require_extra
from noiser.results.answer_comparison import Correlation, MinimalWordsSummary, Point
from noiser.results.records import Number, Row, Summary
from noiser.storage import slug, write_file
from noiser.views.labels import visible
from noiser.views.palette import OPPOSES, SUPPORTS

METHOD_COLOUR, CONTROL_COLOUR = (tuple(channel / 255 for channel in colour) for colour in (SUPPORTS, OPPOSES))
GREY, LIGHT_GREY = "0.45", "0.7"
PART_COLOURS = {"relative": "#2166ac", "capital": "#67a9cf", "main part": "0.75", "distractor": "#b2182b"}
"""Colours of the parts of a prompt. They can be told apart by colour-blind readers and in grey."""
STEP_HEIGHT = 0.7
"""Height of a row's step curve if all samples are answered; the next row begins at 1."""
MAX_NAME = 34
"""Characters in one line of a name beside a scatter plot."""
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "noiser",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "text.usetex": False,
    "text.parse_math": False,
}
METADATA = {"svg": {"Date": None}, "png": {"Software": None}}
"""Without a date, so that equal numbers give equal bytes."""
CostPoint = tuple[str, float, Number]
"""A method's name, its seconds for a sample, its faithfulness."""


def save_plots(summaries: Sequence[Summary], model: str, folder: Path) -> list[Path]:
    """Write an SVG and a PNG for each metric into `folder`, which is created if it does not exist. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for summary in summaries:
        name = slug(summary.metric)
        for form in ("svg", "png"):
            path = folder / f"{name}.{form}"
            write_file(path, forest_plot(summary, model, form))
            paths.append(path)
    return paths


def forest_plot(summary: Summary, model: str, form: str) -> bytes:
    """A plot of one metric as `svg` or `png`: a dot and an interval for each row, the best row on top, controls as squares."""
    rows = [row for row in summary.rows if _plotted(row).value is not None]
    with _axes(7.2, 1.5 + 0.3 * max(1, len(rows))) as (figure, axes):
        relative = any(row.log_ratio is not None for row in rows)
        _draw_rows(axes, rows)
        if relative:
            axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        quantity = "log(mean / mean of random)" if relative else "mean"
        axes.set_xlabel(f"{quantity}, 95 % interval; {summary.better} is better")
        counts = f"{visible(model)}: {summary.samples} samples, {summary.clusters} clusters"
        axes.set_title(f"{visible(summary.metric)}\n{counts}", fontsize=10, loc="left")
        _style(axes, ("top", "right", "left"), axis="x")
        return _file_bytes(figure, form)


def cost_plot(points: Sequence[CostPoint], title: str, form: str) -> bytes:
    """Faithfulness with its interval against the seconds for a sample, on a logarithmic axis. Random scores are at 0.

    Returns an `svg` or `png`.
    """
    with _axes(7.2, 4.4) as (figure, axes):
        for name, seconds, faithfulness in points:
            assert faithfulness.value is not None
            if faithfulness.low is not None and faithfulness.high is not None:
                interval = [faithfulness.low, faithfulness.high]
                axes.plot([seconds, seconds], interval, color=METHOD_COLOUR, alpha=0.5, linewidth=2)
            axes.plot([seconds], [faithfulness.value], "o", color=METHOD_COLOUR)
            axes.annotate(visible(name), (seconds, faithfulness.value), xytext=(6, 3), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlabel("seconds a sample (median), logarithmic")
        axes.set_ylabel("faithfulness, 95 % interval; higher is better")
        axes.set_title(visible(title), fontsize=10, loc="left")
        _style(axes, ("top", "right"), axis="x")
        axes.margins(x=0.15)
        return _file_bytes(figure, form)


def share_plot(rows: Mapping[str, Mapping[str, Number]], title: str, form: str) -> bytes:
    """For each method a bar of the shares of its score on each part of the prompt; a line shows the interval of each share.

    Returns an `svg` or `png`.
    """
    with _axes(7.2, 1.6 + 0.34 * max(1, len(rows))) as (figure, axes):
        in_legend: set[str] = set()
        for height, parts in enumerate(reversed(list(rows.values()))):
            left = 0.0
            for part, share in parts.items():
                width = share.value or 0.0
                label = part if part not in in_legend else None
                axes.barh(height, width, left=left, color=PART_COLOURS[part], height=0.7, label=label)
                in_legend.add(part)
                if share.low is not None and share.high is not None:
                    axes.plot([left + share.low, left + share.high], [height, height], color="black", linewidth=0.8)
                left += width
        axes.set_yticks(range(len(rows)), [visible(name) for name in reversed(list(rows))])
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of the positive scores, 95 % interval")
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.18), ncols=4, frameon=False, fontsize=8)
        axes.set_title(visible(title), fontsize=10, loc="left")
        _style(axes, ("top", "right"), axis="x")
        return _file_bytes(figure, form)


def minimal_words_plot(summary: MinimalWordsSummary, title: str, form: str) -> bytes:
    """How few words are enough: for each method the share of samples as a grey step curve, and the mean with its interval below.

    Returns an `svg` or `png`.
    """
    rows = [row for row in summary.rows if row.mean.value is not None]
    with _axes(7.2, 1.6 + 0.42 * max(1, len(rows))) as (figure, axes):
        for height, row in enumerate(reversed(rows)):
            steps = [0.0, *row.shares, 1.0]
            tops = [height + STEP_HEIGHT * index / len(row.shares) for index in range(len(row.shares) + 1)]
            axes.fill_between(steps, height, [*tops, tops[-1]], step="post", color="0.85", linewidth=0)
            colour, marker = (GREY, "s") if row.control else (METHOD_COLOUR, "o")
            _draw_interval(axes, row.mean, height, colour)
            axes.plot([row.mean.value or 0.0], [height], marker, color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [_row_name(row.method, row.control) for row in reversed(rows)])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.4, max(1, len(rows)))
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of words at the last right answer; lower is better\n"
                        "dots: mean, 95 % interval\nshaded: share of samples for which so few are enough", fontsize=9)  # fmt: skip
        axes.set_title(f"{visible(title)}\n{summary.samples} samples, {summary.clusters} clusters", fontsize=10, loc="left")
        _style(axes, ("top", "right", "left"))
        return _file_bytes(figure, form)


def correlation_plot(correlation: Correlation, title: str, form: str) -> bytes:
    """Each method's faithfulness against its answerability, both with intervals; controls in grey, names at the right.

    Returns an `svg` or `png`.
    """
    points = [point for point in correlation.points if point.faithfulness.value is not None and point.rate.value is not None]
    with _axes(8.4, max(4.6, 1.6 + 0.26 * len(points))) as (figure, axes):
        for point in points:
            _draw_cross(axes, point)
        axes.margins(x=0.08)
        bottom, top = (min(0.0, axes.get_ylim()[0]), axes.get_ylim()[1])
        axes.set_ylim(bottom, top)
        _draw_names(axes, [(point.method, point.control, point.faithfulness.value or 0.0, point.rate.value or 0.0) for point in points])
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlabel("faithfulness: log(mean / mean of random), 95 % interval; higher is better")
        axes.set_ylabel("answerability: rate, 95 % interval; higher is better")
        rho = correlation.spearman.value
        sentence = "no rank correlation" if rho is None else f"Spearman's rank correlation of {correlation.methods} methods {rho:+.2f}"
        lines = "\n".join(map(visible, title.split("\n")))
        axes.set_title(f"{lines}\n{sentence}, {correlation.samples} samples", fontsize=10, loc="left")
        _style(axes, ("top", "right"))
        return _file_bytes(figure, form)


@contextmanager
def _axes(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure of this size in inches, and its axes, under our settings."""
    require_extra("plots", "a plot")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def _file_bytes(figure: Any, form: str) -> bytes:
    data = BytesIO()
    figure.savefig(data, format=form, dpi=150, metadata=METADATA[form])
    return data.getvalue()


def _style(axes: Any, hidden: Sequence[str], *, axis: str = "both") -> None:
    """Hide some sides of the frame and draw a light grid behind the data."""
    for side in hidden:
        axes.spines[side].set_visible(False)
    axes.grid(axis=axis, color="0.9" if axis == "x" else "0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def _plotted(row: Row) -> Number:
    return row.log_ratio if row.log_ratio is not None else row.mean


def _row_name(method: str, control: bool) -> str:
    return visible(method) + " (control)" * control


def _draw_rows(axes: Any, rows: Sequence[Row]) -> None:
    for height, row in enumerate(reversed(rows)):
        number = _plotted(row)
        colour, marker = (CONTROL_COLOUR, "s") if row.control else (METHOD_COLOUR, "o")
        _draw_interval(axes, number, height, colour)
        axes.plot([number.value], [height], marker, color=colour, markersize=6)
    groups = axes.secondary_yaxis("right")
    groups.set_yticks(range(len(rows)), [row.group for row in reversed(rows)])
    groups.tick_params(length=0)
    groups.spines["right"].set_visible(False)
    axes.set_yticks(range(len(rows)), [_row_name(row.method, row.control) for row in reversed(rows)])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.7, len(rows) - 0.3)


def _draw_interval(axes: Any, number: Number, height: int, colour: Any) -> None:
    if number.low is not None and number.high is not None:
        axes.plot([number.low, number.high], [height, height], color=colour, linewidth=2, solid_capstyle="round", alpha=0.6)


def _draw_cross(axes: Any, point: Point) -> None:
    """A dot with an interval in each direction."""
    colour, marker = (LIGHT_GREY, "s") if point.control else (METHOD_COLOUR, "o")
    x, y = point.faithfulness, point.rate
    if x.low is not None and x.high is not None:
        axes.plot([x.low, x.high], [y.value, y.value], color=colour, alpha=0.5, linewidth=1.5)
    if y.low is not None and y.high is not None:
        axes.plot([x.value, x.value], [y.low, y.high], color=colour, alpha=0.5, linewidth=1.5)
    axes.plot([x.value], [y.value], marker, color=colour, markersize=6)


def _draw_names(axes: Any, points: Sequence[tuple[str, bool, float, float]]) -> None:
    """Names in a column at the right, each with a line to its point. They are ordered by height, so that few lines cross."""
    bottom, top = axes.get_ylim()
    ordered = sorted(points, key=lambda point: (point[3], point[2]))
    heights = spread_apart([(y - bottom) / (top - bottom) for *_, y in ordered], 0.9 / max(12, len(points)))
    arrow = {"arrowstyle": "-", "color": "0.8", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4, "relpos": (0, 0.5)}
    for (name, control, x, y), height in zip(ordered, heights, strict=True):
        axes.annotate(
            break_name(visible(name)), (x, y), xytext=(1.03, height), textcoords="axes fraction", va="center", fontsize=8,
            linespacing=0.9, color=GREY if control else "black", arrowprops=arrow,
        )  # fmt: skip


def spread_apart(heights: Sequence[float], gap: float) -> list[float]:
    """The ascending heights in [0, 1], moved at least `gap` apart if that many fit.

    The result is half way between moving close heights up only and moving them down only.
    """
    up = _push_up(heights, gap)
    down = [1.0 - height for height in _push_up([1.0 - height for height in reversed(heights)], gap)][::-1]
    return [(one + other) / 2 for one, other in zip(up, down, strict=True)]


def _push_up(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights, each moved up to `gap` above the one before, then moved down as far as 1 demands."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else max(0.0, height))
    limit = 1.0
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved


def break_name(name: str) -> str:
    """The name in lines of at most MAX_NAME characters, broken after a colon or a plus if there is one."""
    lines = [""]
    for character in name:
        cut = max(lines[-1].rfind(sign) for sign in ":+") + 1 if len(lines[-1]) >= MAX_NAME else -1
        if cut >= 0:
            cut = cut or MAX_NAME
            lines[-1:] = [lines[-1][:cut], lines[-1][cut:]]
        lines[-1] += character
    return "\n".join(lines)
