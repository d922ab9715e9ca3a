"""An evaluation in a terminal: methods by metrics, with intervals, groups, controls, and what has to be said in words."""

from collections.abc import Sequence
from itertools import islice

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from noiser.results.attribution import Cost
from noiser.results.evaluation import Evaluation
from noiser.results.records import Number, Row, Summary
from noiser.views.escape import visible
from noiser.views.terminal.answerability import render_answerability
from noiser.views.terminal.attribution import plain

COLUMNS = 3
"""Metrics side by side."""
ARROWS = {"higher": "\u2191 higher is better", "lower": "\u2193 lower is better"}


def to_text(evaluation: Evaluation, width: int = 120) -> str:
    """The evaluation without colour, as `print` shows it."""
    return plain(render_evaluation(evaluation), width)


def render_evaluation(evaluation: Evaluation) -> RenderableType:
    """Methods by metrics, best first; the controls; remarks, accounting and costs."""
    order = ranking(evaluation)
    summaries = iter(evaluation.summaries)
    blocks: list[RenderableType] = [Text(f"{visible(evaluation.model)}, {evaluation.samples} samples", style="bold")]
    while part := list(islice(summaries, COLUMNS)):
        blocks += [Text(), _table(part, order)]
    blocks += [Text(), Text(_legend(evaluation), style="dim"), *render_answerability(evaluation)]
    blocks += [*_remarks(evaluation), Text(), *_accounting(evaluation)]
    return Group(*blocks)


def ranking(evaluation: Evaluation) -> list[str]:
    """The rows in the order of what sums up most: faithfulness where there is one, else the first metric."""
    first = next((each for each in evaluation.summaries if each.metric.startswith("faithfulness")), evaluation.summaries[0])
    return [row.method for row in first.rows]


def number(found: Number, *, signed: bool = False) -> str:
    """A value and its interval: `0.41 [0.30, 0.52]`."""
    if found.value is None:
        return "none"
    form = "+.2f" if signed else ".3f"
    ends = "" if found.low is None or found.high is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.value:{form}}{ends}"


def _table(summaries: Sequence[Summary], order: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", collapse_padding=True)
    table.add_column("")
    for each in summaries:
        said = f"{each.samples} compared, {each.clusters} clusters"
        heading = Text.assemble(visible(each.metric), "\n", (f"{ARROWS[each.better]}\n{said}", "not bold dim"))
        table.add_column(heading, overflow="fold")
    rows = [{row.method: row for row in each.rows} for each in summaries]
    for place, method in enumerate(order):
        own = [each[method] for each in rows]
        first_control = own[0].control and (place == 0 or not rows[0][order[place - 1]].control)
        if first_control:
            table.add_row(Text("controls", style="dim italic"))
        table.add_row(Text(visible(method), style="dim" if own[0].control else ""), *map(_cell, own))
    return table


def _cell(row: Row) -> Text:
    """The log-ratio to random where there is one, and the mean; the letters of the groups behind the first."""
    lines = []
    if row.log_ratio is not None:
        lines.append(number(row.log_ratio, signed=True))
    if row.mean.value is not None or not lines:
        lines.append(number(row.mean))
    text = Text(lines[0], style="dim" if row.control else "")
    if row.group:
        text.append(f" {row.group}", style="bold")
    for line in lines[1:]:
        text.append(f"\n  mean {line}", style="dim")
    return text


def _legend(evaluation: Evaluation) -> str:
    said = ["95 % intervals in brackets: cluster bootstrap over samples."]
    if any(row.log_ratio for summary in evaluation.summaries for row in summary.rows):
        said.append("With a sign: log(mean / mean of random).")
    return " ".join([*said, "Methods that share a letter were not told apart (paired test, 5 %, Holm)."])


def _remarks(evaluation: Evaluation) -> list[Text]:
    """Each sentence once, behind the metrics that it holds for."""
    held: dict[str, list[str]] = {}
    for summary in evaluation.summaries:
        for remark in summary.remarks:
            held.setdefault(remark, []).append(summary.metric)
    return [Text(f"! {visible(', '.join(metrics))}: {visible(remark)}", style="yellow") for remark, metrics in held.items()]


def _accounting(evaluation: Evaluation) -> list[Text]:
    statuses = evaluation.statuses
    sums = " + ".join(f"{count:,} {visible(status)}" for status, count in sorted(statuses.items(), key=lambda item: -item[1]))
    lines = [Text(f"{evaluation.planned:,} planned = {sums}")]
    for summary in evaluation.summaries:
        for row in summary.rows:
            wrong = {status: count for status, count in row.statuses.items() if status != "ok"}
            if wrong and not summary.metric.startswith("faithfulness"):
                said = ", ".join(f"{count} {visible(status)}" for status, count in wrong.items())
                lines.append(Text(f"  {visible(summary.metric)}, {visible(row.method)}: {said}", style="dim"))
    messages = dict.fromkeys(f"{record.status}: {record.message}" for record in evaluation.records if record.message)
    lines += [Text(f"  {visible(message)}", style="dim") for message in islice(messages, 5)]
    return [*lines, *_costs(evaluation)]


def _costs(evaluation: Evaluation) -> list[Text]:
    metrics = evaluation.costs.get("metrics", Cost(0.0, 0, 0, 0))
    methods = [cost for name, cost in evaluation.costs.items() if name != "metrics"]
    seconds = sum(cost.seconds for cost in methods)
    forward, backward = (sum(getattr(cost, name) for cost in methods) for name in ("forward_tokens", "backward_tokens"))
    there = f"attributions {seconds:,.1f} s ({forward:,} tokens forward, {backward:,} backward)"
    ratio = f", {metrics.seconds / seconds:.2f} times that" if seconds else ""
    return [Text(f"{there}; metrics {metrics.seconds:,.1f} s ({metrics.forward_tokens:,} forward){ratio}", style="dim")]
