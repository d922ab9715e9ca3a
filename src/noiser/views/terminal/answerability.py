"""Answerability in a terminal: rates and scores by method, the judge's rates without a method, and the agreement of judges."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from noiser.results.answer_comparison import judge_agreements
from noiser.results.answerability import CONDITIONS, AnswerRow, AnswerSummary, Rate, answer_summaries, answerers
from noiser.results.evaluation import Evaluation
from noiser.results.records import Number
from noiser.views.labels import visible

FORM_NAMES = {"top1": "top-1", "top5": "top-5"}
CONDITION_NAMES = {"all": "all words", "random": "random words", "none": "no words", "canary": "hidden instruction"}
LEGEND = (
    "Rate: how often the judge is right with the kept words; W: Wilson's interval. Score: their share of the attribution, 0 if the answer "
    "is wrong; A: over the answered ones only. Shuffled: the rate with the kept words in a random order. R/I/N: samples refused, invalid "
    "(a reply without an answer), without a value. Given: the answer is among the kept words. All words: the ceiling; no words: the "
    "floor; hidden instruction: how often the judge obeyed it, lower is better."
)


def render_answerability(evaluation: Evaluation) -> Iterator[RenderableType]:
    """A table for each judge and form, and a line for every two judges; nothing if no judge was asked."""
    summaries = answer_summaries(evaluation.records, evaluation.methods, evaluation.metrics)
    for summary in summaries:
        yield from (Text(), Text(_heading(summary, evaluation), style="bold"), _table(summary))
        known = _metric_remarks(evaluation)
        yield from (Text(f"! {visible(remark)}", style="yellow") for remark in summary.remarks if remark not in known)
    for agreement in judge_agreements(evaluation.records, evaluation.methods, evaluation.metrics):
        kappa = "none" if agreement.kappa is None else f"{agreement.kappa:+.2f}"
        judges = f"{visible(agreement.judges[0])} and {visible(agreement.judges[1])}, {FORM_NAMES[agreement.form]}"
        yield Text(f"{judges}: equal verdicts {_format(agreement.equal)}, Cohen's kappa {kappa}, {agreement.cells:,} verdicts")
    if summaries:
        yield Text(LEGEND, style="dim")


def _metric_remarks(evaluation: Evaluation) -> set[str]:
    """Remarks that the tables of the metrics show already."""
    return {remark for summary in evaluation.summaries if summary.metric.startswith("answerability") for remark in summary.remarks}


def _heading(summary: AnswerSummary, evaluation: Evaluation) -> str:
    records = [record for record in evaluation.records if record.metric == summary.metric]
    models = sorted({model for record in records for model in answerers(record.steps)})
    by = f", answered by {', '.join(map(visible, models))}" if models else ""
    judge = f"judge {visible(summary.judge)}{by}" if summary.judge else "judge not named"
    return f"{visible(summary.metric)}, {FORM_NAMES[summary.form]}, {judge}; {summary.samples} compared, {summary.clusters} clusters"


def _table(summary: AnswerSummary) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", collapse_padding=True)
    table.add_column("", overflow="fold")
    shuffled = any(row.shuffled for row in summary.rows)
    for name in ["rate \u2191", "score \u2191", *["shuffled \u2191"] * shuffled]:
        table.add_column(name, no_wrap=True)
    for name in ("R/I/N", "given"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, row in enumerate(summary.rows):
        if row.control and (index == 0 or not summary.rows[index - 1].control):
            table.add_row(Text("controls", style="dim italic"))
        table.add_row(*_cells(row, shuffled))
    conditions = [name for name in CONDITIONS if name in summary.conditions]
    if conditions:
        table.add_row(Text("without a method", style="dim italic"))
    for name in conditions:
        table.add_row(Text(CONDITION_NAMES[name], style="dim"), _rate(summary.conditions[name], "", True))
    return table


def _cells(row: AnswerRow, shuffled: bool) -> Sequence[Text]:
    style = "dim" if row.control else ""
    score = Text(_format(row.score), style=style)
    if row.score_answered.value is not None:
        score.append(f"\nA {_format(row.score_answered)}", style="dim")
    counts = (f"{row.refused:g}/{row.invalid:g}/{row.undefined + row.errors}", f"{row.given:g}")
    shuffled_cells = [_rate(row.shuffled, "", row.control, short=True)] * shuffled
    cells = [Text(visible(row.method), style=style), _rate(row.rate, row.group, row.control), score, *shuffled_cells]
    return [*cells, *(Text(count, style="dim" if count in ("0", "0/0/0") else style) for count in counts)]


def _rate(rate: Rate | None, group: str, dim: bool, *, short: bool = False) -> Text:
    """The rate with its interval over clusters, the letters of its group, and Wilson's interval in a second line."""
    if rate is None:
        return Text("none", style="dim")
    text = Text(_format(rate.clustered), style="dim" if dim else "")
    if group:
        text.append(f" {group}", style="bold")
    if not short and rate.wilson.low is not None and rate.wilson.high is not None:
        text.append(f"\n   W [{rate.wilson.low:.2f}, {rate.wilson.high:.2f}]", style="dim")
    return text


def _format(number: Number) -> str:
    if number.value is None:
        return "none"
    interval = "" if number.low is None or number.high is None else f" [{number.low:.2f}, {number.high:.2f}]"
    return f"{number.value:.2f}{interval}"
