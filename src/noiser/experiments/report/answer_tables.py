"""Answerability in a run's report: tables 3 and 6, figures 3 and 4, and how far several judges agree."""

from collections.abc import Iterator, Sequence
from typing import Any

from noiser.experiments.report import paper
from noiser.experiments.report.tables import DASH, CellResult, accounting, format_number, row_name
from noiser.experiments.schema import VALUE
from noiser.results.answer_comparison import (
    Agreement,
    Correlation,
    MinimalWordsSummary,
    faithfulness_correlations,
    judge_agreements,
    minimal_words_summaries,
)
from noiser.results.answerability import CONDITIONS, AnswerRow, AnswerSummary, Rate, answer_summaries, answerers
from noiser.results.records import MethodRow
from noiser.views.documents import Figure, Form, Section, Table
from noiser.views.plots import correlation_plot, minimal_words_plot

PUBLISHED = {"top1": "Table 3: ", "top5": "Table 6: "}
FORM_NAMES = {"top1": "top-1", "top5": "top-5"}
CONDITION_NAMES = {
    "all": "all words (ceiling)",
    "random": "random words, as many",
    "none": "no words (floor)",
    "canary": "hidden instruction obeyed",
}
EXPLANATION = (
    "A judge sees the words with the highest scores, in the prompt's order, and says how the prompt goes on. rate: how often it is "
    "right. score: the kept words' share of the attribution, 0 if the answer is wrong; as a mean over all samples, which the paper "
    "prints, and over the answered ones. A refusal and a reply without an answer count as wrong."
)
ANSWERERS = "answerers"
"""The field of a record that keeps who answered."""


def keep_answerers(record: dict[str, Any]) -> None:
    """Copy the ids of the models that answered into a field of their own, before the steps are dropped."""
    models = answerers(record.get("steps") or ()) if record.get("kind") == VALUE else ()
    if models:
        record[ANSWERERS] = models


def answerability_sections(results: Sequence[CellResult]) -> list[Section]:
    """One section with everything that judges said; none if the run asks no judge."""
    tables: list[Table] = []
    figures: list[Figure] = []
    has_several_models = len({result.cell.model for result in results}) > 1
    for index, result in enumerate(results):
        where = f"{result.cell.data}, {result.cell.model}" if has_several_models else result.cell.data
        cell_tables, cell_figures = _cell_parts(index, result, where)
        tables += cell_tables
        figures += cell_figures
    return [Section("Answerability", (EXPLANATION,), tuple(tables), tuple(figures))] if tables else []


def _cell_parts(index: int, result: CellResult, where: str) -> tuple[list[Table], list[Figure]]:
    data = result.records, result.method_rows, result.metric_columns
    rates, agreements = answer_summaries(*data), judge_agreements(*data)
    minimums, correlations = minimal_words_summaries(*data), faithfulness_correlations(*data, seed=result.fingerprint["seed"])
    tables = [_rate_table(summary, result, _title(where, summary.metric, rates)) for summary in rates]
    tables += [_agreement_table(agreements, where)] if agreements else []
    figures: list[Figure] = []
    for number, summary in enumerate(minimums):
        title = _title(where, summary.metric, minimums)
        tables.append(_minimum_table(summary, result, title))
        figures.append(_minimum_figure(summary, f"least-{index}-{number}", title))
    for number, correlation in enumerate(correlations):
        tables.append(_correlation_table(correlation, where))
        figures.append(_correlation_figure(correlation, f"against-{index}-{number}", where))
    return tables, figures


def _title(where: str, metric: str, summaries: Sequence[AnswerSummary | MinimalWordsSummary]) -> str:
    """The metric's label is part of a title if there are several metrics."""
    return where if len({summary.metric for summary in summaries}) < 2 else f"{where}, {metric}"


# Tables 3 and 6: rates


def _rate_table(summary: AnswerSummary, result: CellResult, where: str) -> Table:
    printed = {row.label: _printed(summary.form, row, result) for row in result.method_rows}
    has_printed = any(rate for rate, _ in printed.values())
    has_shuffled = any(row.shuffled for row in summary.rows)
    columns = ["method", "rate [95 %]", "Wilson's [95 %]", "score, all samples [95 %]", "score, answered [95 %]"]
    columns += ["rate, words shuffled [95 %]"] * has_shuffled + ["refused", "invalid", "no value", "answer among the words"]
    rows = [_rate_cells(row, has_shuffled) for row in summary.rows]
    paper_cells = [printed[row.method] for row in summary.rows]
    for name in CONDITIONS:
        if name in summary.conditions:
            cells = [CONDITION_NAMES[name], *_rate(summary.conditions[name])]
            rows.append(cells + [DASH] * (len(columns) - len(cells)))
            paper_cells.append((paper.ceiling(summary.form) if name == "all" else "", ""))
    if has_printed:
        columns += [f"paper's rate, {result.paper_column}", f"paper's score, {result.paper_column}"]
        rows = [[*cells, *beside] for cells, beside in zip(rows, paper_cells, strict=True)]
    title = f"{PUBLISHED[summary.form] if result.kind == 'known' else ''}answerability, {FORM_NAMES[summary.form]}, on {where}"
    return Table(title, tuple(columns), tuple(map(tuple, rows)), tuple(_rate_notes(summary, result, has_printed)))


def _rate_cells(row: AnswerRow, has_shuffled: bool) -> list[str]:
    rate, interval = _rate(row.rate)
    cells = [row_name(row.method, control=row.control), f"{rate} {row.group}".strip(), interval]
    cells += [format_number(score, signed=False) for score in (row.score, row.score_answered)]
    cells += [format_number(row.shuffled.clustered if row.shuffled else None, signed=False)] * has_shuffled
    return [*cells, f"{row.refused:g}", f"{row.invalid:g}", f"{row.undefined + row.errors:,}", f"{row.given:g}"]


def _rate(rate: Rate | None) -> tuple[str, str]:
    """The rate with its interval over clusters, and Wilson's interval."""
    if rate is None or rate.wilson.low is None or rate.wilson.high is None:
        return format_number(rate.clustered if rate else None, signed=False), DASH
    return format_number(rate.clustered, signed=False), f"[{rate.wilson.low:.3f}, {rate.wilson.high:.3f}]"


def _printed(form: str, row: MethodRow, result: CellResult) -> tuple[str, str]:
    """The paper's rate and score. It prints them for Known only, and for Noiser with its final bound."""
    if result.kind != "known" or row.control or (row.method == "noiser" and str(row.options.get("bound", "k_min")) != "k_min"):
        return "", ""
    return paper.answerability(form, row.method, result.paper_column)


def _rate_notes(summary: AnswerSummary, result: CellResult, has_printed: bool) -> Iterator[str]:
    yield _judge_note(summary.metric, summary.judge, result)
    counts = f"{summary.samples} samples that every row has, {summary.clusters} clusters"
    yield f"{counts}; higher is better, for the hidden instruction lower. {accounting(summary.metric, result)}"
    yield from map(_sentence, summary.remarks)
    if any(row.group for row in summary.rows):
        yield "Methods that share a letter were not told apart by their rates (5 %, Holm)."
    yield "Intervals: jackknife over the clusters of samples, and Wilson's, which takes samples as independent."
    if has_printed:
        yield f"Paper: as printed for Known, with {paper.tables()['judge']['model']} as judge. {paper.SOURCE}."


def _judge_note(metric: str, judge: str, result: CellResult) -> str:
    """The judge's name, and the models that answered."""
    trials = (trial for sample in result.cell.samples for trial in sample.trials if trial.metric == metric)
    records = (result.index.find(trial.key, trial.kind) or {} for trial in trials)
    models = sorted({model for record in records for model in record.get(ANSWERERS, ())})
    return f"Judge: {judge or 'not named'}; answered by {', '.join(models) if models else 'no model that gave its name'}."


def _sentence(remark: str) -> str:
    return f"{remark[0].upper()}{remark[1:]}."


# Agreement of judges


def _agreement_table(agreements: Sequence[Agreement], where: str) -> Table:
    columns = ("judges", "form", "equal verdicts [95 %]", "Cohen's kappa", "verdicts", "samples")
    rows = [
        (
            f"{pair.metric} and {pair.other}", FORM_NAMES[pair.form], format_number(pair.equal, signed=False),
            DASH if pair.kappa is None else f"{pair.kappa:+.2f}", f"{pair.cells:,}", f"{pair.samples:,}",
        )
        for pair in agreements
    ]  # fmt: skip
    note = (
        "A verdict is on one sample and one method or control. Kappa is 0 if two judges agree as often as by chance, 1 if they "
        "always agree; a dash if both give the same verdict on everything."
    )
    return Table(f"Agreement of the judges on {where}", columns, tuple(rows), (note,))


# Figure 3: minimum top-p


def _minimum_table(summary: MinimalWordsSummary, result: CellResult, where: str) -> Table:
    columns = ("method", "share of words [95 %]", "samples out", "calls", "calls, one word at a time", "saved")
    rows = []
    for row in summary.rows:
        calls = (f"{count:,.0f}" for count in (row.calls, row.plain_calls, row.saved))
        rows.append((row_name(row.method, control=row.control), format_number(row.mean, signed=False), f"{row.out:,}", *calls))
    notes = [
        _judge_note(summary.metric, summary.judge, result),
        f"{summary.samples} samples that every row has, {summary.clusters} clusters; lower is better. {accounting(summary.metric, result)}",
        *map(_sentence, summary.remarks),
        "The least important words are dropped until the answer is wrong; the share is the one at the last right answer. Out: the judge "
        "is wrong with all words. Calls: questions, before the cache, for the samples that are not out.",
    ]
    title = f"Figure 3: minimum top-p, {FORM_NAMES.get(summary.form, summary.form)}, on {where}"
    return Table(title, columns, tuple(rows), tuple(notes))


def _minimum_figure(summary: MinimalWordsSummary, name: str, where: str) -> Figure:
    def draw(form: Form) -> bytes:
        return minimal_words_plot(summary, where, form)

    return Figure(name, f"Figure 3: the smallest share of words that the judge still answers with, {where}", draw)


# Figure 4: faithfulness against answerability


def _correlation_table(correlation: Correlation, where: str) -> Table:
    form = FORM_NAMES.get(correlation.form, correlation.form)
    columns = ("method", "faithfulness [95 %]", f"answerability, {form} [95 %]")
    rows = [
        (
            row_name(point.method, control=point.control),
            format_number(point.faithfulness, signed=True),
            format_number(point.rate, signed=False),
        )
        for point in correlation.points
    ]
    notes = [
        f"Spearman's rank correlation over {correlation.methods} methods, without controls: "
        f"{format_number(correlation.spearman, signed=True)}. Its interval says how well this data knows the ranks, not what other "
        "methods would do.",
        f"{correlation.samples} samples that every row has under all three metrics.",
        *map(_sentence, correlation.remarks),
    ]
    return Table(_correlation_title(correlation, where), columns, tuple(rows), tuple(notes))


def _correlation_title(correlation: Correlation, where: str) -> str:
    return f"Figure 4: {correlation.faithfulness} against {correlation.answerability} on {where}"


def _correlation_figure(correlation: Correlation, name: str, where: str) -> Figure:
    def draw(form: Form) -> bytes:
        return correlation_plot(correlation, f"{correlation.faithfulness} and {correlation.answerability}\n{where}", form)

    return Figure(name, _correlation_title(correlation, where), draw)
