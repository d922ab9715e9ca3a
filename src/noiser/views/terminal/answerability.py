"""Answerability in a terminal: rates and scores by method, what the judge does without one, and how judges agree."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from noiser.results.answer_comparison import judge_agreements
from noiser.results.answerability import CONDITIONS, AnswerRow, AnswerSummary, Rate, answer_summaries, answerers
from noiser.results.evaluation import Evaluation
from noiser.results.records import Number
from noiser.views.escape import visible

FORMS = {"top1": "top-1", "top5": "top-5"}
SPOKEN = {"all": "all words", "random": "random words", "none": "no words", "canary": "hidden instruction"}
LEGEND = (
    "Rate: how often the judge is right with the kept words; W: Wilson's interval. Score: their share of the attribution, 0 where it is "
    "wrong; A: over the answered ones only. Shuffled: the rate with the kept words in a random order. R/I/N: samples refused, invalid "
    "(a reply without an answer), without a value. Given: the answer is among the kept words. All words: the ceiling; no words: the "
    "floor; hidden instruction: how often it was obeyed, lower is better."
)


def render_answerability(evaluation: Evaluation) -> Iterator[RenderableType]:
    """A table for each judge and form, a line for each two judges; nothing where no judge was asked."""
    about = evaluation.records, evaluation.contenders, evaluation.gauges, evaluation.seed
    summaries = answer_summaries(*about)
    for summary in summaries:
        yield from (Text(), Text(_heading(summary, evaluation), style="bold"), _table(summary))
        yield from (Text(f"! {visible(remark)}", style="yellow") for remark in summary.remarks if remark not in _said(evaluation))
    for each in judge_agreements(*about):
        kappa = "none" if each.kappa is None else f"{each.kappa:+.2f}"
        said = f"{visible(each.judges[0])} and {visible(each.judges[1])}, {FORMS[each.form]}: equal verdicts {_number(each.equal)}"
        yield Text(f"{said}, Cohen's kappa {kappa}, {each.cells:,} verdicts")
    if summaries:
        yield Text(LEGEND, style="dim")


def _said(evaluation: Evaluation) -> set[str]:
    """Remarks that the tables of the metrics have already."""
    return {remark for summary in evaluation.summaries if summary.metric.startswith("answerability") for remark in summary.remarks}


def _heading(summary: AnswerSummary, evaluation: Evaluation) -> str:
    models = sorted({model for each in evaluation.records if each.metric == summary.metric for model in answerers(each.steps)})
    by = f", answered by {', '.join(map(visible, models))}" if models else ""
    judge = f"judge {visible(summary.judge)}{by}" if summary.judge else "judge not named"
    return f"{visible(summary.metric)}, {FORMS[summary.form]}, {judge}; {summary.samples} compared, {summary.clusters} clusters"


def _table(summary: AnswerSummary) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", collapse_padding=True)
    table.add_column("", overflow="fold")
    shuffled = any(row.shuffled for row in summary.rows)
    for name in ["rate \u2191", "score \u2191", *["shuffled \u2191"] * shuffled]:
        table.add_column(name, no_wrap=True)
    for name in ("R/I/N", "given"):
        table.add_column(name, justify="right", no_wrap=True)
    for place, row in enumerate(summary.rows):
        if row.control and (place == 0 or not summary.rows[place - 1].control):
            table.add_row(Text("controls", style="dim italic"))
        table.add_row(*_cells(row, shuffled))
    there = [name for name in CONDITIONS if name in summary.conditions]
    if there:
        table.add_row(Text("without a method", style="dim italic"))
    for name in there:
        table.add_row(Text(SPOKEN[name], style="dim"), _rate(summary.conditions[name], "", True))
    return table


def _cells(row: AnswerRow, shuffled: bool) -> Sequence[Text]:
    style = "dim" if row.control else ""
    score = Text(_number(row.score), style=style)
    if row.score_answered.value is not None:
        score.append(f"\nA {_number(row.score_answered)}", style="dim")
    counts = (f"{row.refused:g}/{row.invalid:g}/{row.undefined + row.errors}", f"{row.given:g}")
    again = [_rate(row.shuffled, "", row.control, short=True)] * shuffled
    cells = [Text(visible(row.method), style=style), _rate(row.rate, row.group, row.control), score, *again]
    return [*cells, *(Text(each, style="dim" if each in ("0", "0/0/0") else style) for each in counts)]


def _rate(rate: Rate | None, group: str, dim: bool, *, short: bool = False) -> Text:
    """The rate with the bootstrap's interval, the group's letters, and Wilson's interval below."""
    if rate is None:
        return Text("none", style="dim")
    text = Text(_number(rate.clustered), style="dim" if dim else "")
    if group:
        text.append(f" {group}", style="bold")
    if not short and rate.wilson.low is not None and rate.wilson.high is not None:
        text.append(f"\n   W [{rate.wilson.low:.2f}, {rate.wilson.high:.2f}]", style="dim")
    return text


def _number(found: Number) -> str:
    if found.value is None:
        return "none"
    return f"{found.value:.2f}" + ("" if found.low is None or found.high is None else f" [{found.low:.2f}, {found.high:.2f}]")
