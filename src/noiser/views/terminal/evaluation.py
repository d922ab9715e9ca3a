"""An evaluation in a terminal: methods by metrics with intervals and groups, remarks, the accounting of all trials, and costs."""

from collections.abc import Sequence
from itertools import islice

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from noiser.results.attribution import Cost
from noiser.results.evaluation import Evaluation
from noiser.results.records import Number, Row, Summary
from noiser.views.labels import visible
from noiser.views.terminal.answerability import render_answerability
from noiser.views.terminal.attribution import plain_text

METRICS_PER_TABLE = 3
MAX_MESSAGES = 5
"""Error messages that are shown."""
ARROWS = {"higher": "\u2191 higher is better", "lower": "\u2193 lower is better"}


def to_text(evaluation: Evaluation, width: int = 120) -> str:
    """The evaluation without colour, as `print` shows it."""
    return plain_text(render_evaluation(evaluation), width)


def render_evaluation(evaluation: Evaluation) -> RenderableType:
    """Methods by metrics with the best method first and controls last; then answerability, remarks, accounting and costs."""
    order = ranking(evaluation)
    summaries = iter(evaluation.summaries)
    blocks: list[RenderableType] = [Text(f"{visible(evaluation.model)}, {evaluation.samples} samples", style="bold")]
    while some := list(islice(summaries, METRICS_PER_TABLE)):
        blocks += [Text(), _table(some, order)]
    blocks += [Text(), Text(_legend(evaluation), style="dim"), *render_answerability(evaluation)]
    blocks += [*_remarks(evaluation), Text(), *_accounting(evaluation), _costs(evaluation)]
    return Group(*blocks)


def ranking(evaluation: Evaluation) -> list[str]:
    """The methods in the order of the faithfulness summary if there is one, else of the first metric."""
    first = next((summary for summary in evaluation.summaries if summary.metric.startswith("faithfulness")), evaluation.summaries[0])
    return [row.method for row in first.rows]


def format_number(number: Number, *, signed: bool = False) -> str:
    """A value and its interval: `0.41 [0.30, 0.52]`."""
    if number.value is None:
        return "none"
    form = "+.2f" if signed else ".3f"
    interval = "" if number.low is None or number.high is None else f" [{number.low:{form}}, {number.high:{form}}]"
    return f"{number.value:{form}}{interval}"


def _table(summaries: Sequence[Summary], order: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", collapse_padding=True)
    table.add_column("")
    for summary in summaries:
        counts = f"{summary.samples} compared, {summary.clusters} clusters"
        heading = Text.assemble(visible(summary.metric), "\n", (f"{ARROWS[summary.better]}\n{counts}", "not bold dim"))
        table.add_column(heading, overflow="fold")
    columns = [{row.method: row for row in summary.rows} for summary in summaries]
    for index, method in enumerate(order):
        rows = [column[method] for column in columns]
        first_control = rows[0].control and (index == 0 or not columns[0][order[index - 1]].control)
        if first_control:
            table.add_row(Text("controls", style="dim italic"))
        table.add_row(Text(visible(method), style="dim" if rows[0].control else ""), *map(_cell, rows))
    return table


def _cell(row: Row) -> Text:
    """The log-ratio to random if there is one, and the mean. The letters of the groups follow the first number."""
    lines = []
    if row.log_ratio is not None:
        lines.append(format_number(row.log_ratio, signed=True))
    if row.mean.value is not None or not lines:
        lines.append(("mean " if lines else "") + format_number(row.mean))
    if row.win_rate is not None:
        lines.append(f"beats {format_number(row.win_rate)} of random orders")
    text = Text(lines[0], style="dim" if row.control else "")
    if row.group:
        text.append(f" {row.group}", style="bold")
    for line in lines[1:]:
        text.append(f"\n  {line}", style="dim")
    return text


def _legend(evaluation: Evaluation) -> str:
    sentences = ["95 % intervals in brackets: jackknife over the clusters of samples."]
    if any(row.log_ratio for summary in evaluation.summaries for row in summary.rows):
        sentences.append("With a sign: log(mean / mean of random).")
    return " ".join([*sentences, "Methods that share a letter were not told apart (paired test, 5 %, Holm)."])


def _remarks(evaluation: Evaluation) -> list[Text]:
    """Each remark once, after the names of its metrics."""
    metrics_by_remark: dict[str, list[str]] = {}
    for summary in evaluation.summaries:
        for remark in summary.remarks:
            metrics_by_remark.setdefault(remark, []).append(summary.metric)
    return [Text(f"! {visible(', '.join(metrics))}: {visible(remark)}", style="yellow") for remark, metrics in metrics_by_remark.items()]


def _accounting(evaluation: Evaluation) -> list[Text]:
    """What became of every planned trial, and the first error messages."""
    statuses = sorted(evaluation.statuses.items(), key=lambda item: -item[1])
    sums = " + ".join(f"{count:,} {visible(status)}" for status, count in statuses)
    lines = [Text(f"{evaluation.planned:,} planned = {sums}")]
    for summary in evaluation.summaries:
        if not summary.metric.startswith("faithfulness"):
            lines += _failures(summary)
    messages = dict.fromkeys(f"{record.status}: {record.message}" for record in evaluation.records if record.message)
    return lines + [Text(f"  {visible(message)}", style="dim") for message in islice(messages, MAX_MESSAGES)]


def _failures(summary: Summary) -> list[Text]:
    """For each row the counts of every status but `ok`."""
    lines = []
    for row in summary.rows:
        counts = ", ".join(f"{count} {visible(status)}" for status, count in row.statuses.items() if status != "ok")
        if counts:
            lines.append(Text(f"  {visible(summary.metric)}, {visible(row.method)}: {counts}", style="dim"))
    return lines


def _costs(evaluation: Evaluation) -> Text:
    metrics = evaluation.costs.get("metrics", Cost(0.0, 0, 0, 0))
    methods = [cost for name, cost in evaluation.costs.items() if name != "metrics"]
    seconds = sum(cost.seconds for cost in methods)
    forward, backward = (sum(getattr(cost, name) for cost in methods) for name in ("forward_tokens", "backward_tokens"))
    attributions = f"attributions {seconds:,.1f} s ({forward:,} tokens forward, {backward:,} backward)"
    ratio = f", {metrics.seconds / seconds:.2f} times that" if seconds else ""
    return Text(f"{attributions}; metrics {metrics.seconds:,.1f} s ({metrics.forward_tokens:,} forward){ratio}", style="dim")
