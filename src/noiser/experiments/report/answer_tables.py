"""Answerability in a run's report: tables 3 and 6, figures 3 and 4, and how far several judges agree."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noiser.experiments.report import paper
from noiser.experiments.report.tables import PartResult, accounting, number
from noiser.experiments.trials import VALUE
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
FORMS = {"top1": "top-1", "top5": "top-5"}
SPOKEN = {
    "all": "all words (ceiling)",
    "random": "random words, as many",
    "none": "no words (floor)",
    "canary": "hidden instruction obeyed",
}
NONE = "\u2013"
SAID = (
    "A judge is shown the words with the highest scores, in the prompt's order, and says how the prompt goes on. rate: how often that is "
    "right. score: the kept words' share of the attribution, 0 where the answer is wrong, as a mean over all samples, which the paper "
    "prints, and over the answered ones. What the judge refused to answer and what held no answer counts as wrong."
)
ANSWERERS = "answerers"
"""The field of a record that keeps who answered, once its steps are dropped."""


def keep_answerers(record: dict[str, Any]) -> None:
    """Put the ids of the models that answered into a field of their own."""
    found = answerers(record.get("steps") or ()) if record.get("kind") == VALUE else ()
    if found:
        record[ANSWERERS] = found


def answerability(results: Sequence[PartResult]) -> Iterator[Section]:
    """One section of all that judges said; none where no judge was asked."""
    tables, figures = [], []
    for place, each in enumerate(results):
        about = each.records, each.methods, each.metrics, each.identity["seed"]
        where = each.part.data if len({own.part.model for own in results}) < 2 else f"{each.part.data}, {each.part.model}"
        summaries = answer_summaries(*about)
        tables += [_rates(own, each, _titled(where, own.metric, summaries)) for own in summaries]
        agreements = judge_agreements(*about)
        tables += [_agreements(agreements, where)] if agreements else []
        least, against = minimal_words_summaries(*about), faithfulness_correlations(*about)
        for number_, own in enumerate(least):
            title = _titled(where, own.metric, least)
            tables.append(_least_table(own, each, title))
            figures.append(_least_figure(own, f"least-{place}-{number_}", title))
        for number_, own in enumerate(against):
            tables.append(_against_table(own, where))
            figures.append(_against_figure(own, f"against-{place}-{number_}", where))
    if tables:
        yield Section("Answerability", (SAID,), tuple(tables), tuple(figures))


def _titled(where: str, metric: str, among: Sequence[AnswerSummary | MinimalWordsSummary]) -> str:
    """The metric's label is part of a title where there are several."""
    return where if len({each.metric for each in among}) < 2 else f"{where}, {metric}"


def _rates(summary: AnswerSummary, result: PartResult, where: str) -> Table:
    printed = {each.label: _printed(summary.form, each, result) for each in result.methods}
    beside = any(rate for rate, _ in printed.values())
    shuffled = any(row.shuffled for row in summary.rows)
    columns = ["method", "rate [95 %]", "Wilson's [95 %]", "score, all samples [95 %]", "score, answered [95 %]"]
    columns += ["rate, words shuffled [95 %]"] * shuffled + ["refused", "invalid", "no value", "answer among the words"]
    columns += [f"paper's rate, {result.column}", f"paper's score, {result.column}"] * beside
    rows = [(*_cells(row, shuffled), *(printed[row.method] if beside else ())) for row in summary.rows]
    for name in CONDITIONS:
        if name in summary.conditions:
            cells = [SPOKEN[name], *_rate(summary.conditions[name])]
            cells += [NONE] * (len(columns) - len(cells) - 2 * beside)
            rows.append((*cells, *((paper.ceiling(summary.form) if name == "all" else "", "") if beside else ())))
    title = f"{PUBLISHED[summary.form] if result.kind == 'known' else ''}answerability, {FORMS[summary.form]}, on {where}"
    return Table(title, tuple(columns), tuple(rows), tuple(_rate_notes(summary, result, beside)))


def _cells(row: AnswerRow, shuffled: bool) -> list[str]:
    rate, interval = _rate(row.rate)
    cells = [_row_name(row.method, row.control), f"{rate} {row.group}".strip(), interval]
    cells += [number(each, signed=False) for each in (row.score, row.score_answered)]
    cells += [number(row.shuffled.clustered if row.shuffled else None, signed=False)] * shuffled
    return [*cells, f"{row.refused:g}", f"{row.invalid:g}", f"{row.undefined + row.errors:,}", f"{row.given:g}"]


def _row_name(method: str, control: bool) -> str:
    return f"{method} (control)" if control else method


def _rate(rate: Rate | None) -> tuple[str, str]:
    """The rate with the bootstrap's interval, and Wilson's."""
    if rate is None or rate.wilson.low is None or rate.wilson.high is None:
        return number(rate.clustered if rate else None, signed=False), NONE
    return number(rate.clustered, signed=False), f"[{rate.wilson.low:.3f}, {rate.wilson.high:.3f}]"


def _printed(form: str, row: MethodRow, result: PartResult) -> tuple[str, str]:
    """What the paper prints, of Known only, and of Noiser as it is in the end."""
    if result.kind != "known" or row.control or (row.method == "noiser" and str(row.options.get("bound", "k_min")) != "k_min"):
        return "", ""
    return paper.answerability(form, row.method, result.column)


def _rate_notes(summary: AnswerSummary, result: PartResult, beside: bool) -> Iterator[str]:
    yield f"Judge: {_judge(summary.metric, summary.judge, result)}."
    said = f"{summary.samples} samples that every row has, {summary.clusters} clusters; higher is better, of the hidden instruction lower."
    yield f"{said} {accounting(summary.metric, result)}"
    yield from (f"{remark[0].upper()}{remark[1:]}." for remark in summary.remarks)
    if any(row.group for row in summary.rows):
        yield "Methods that share a letter were not told apart by their rates (5 %, Holm)."
    yield "Intervals: cluster bootstrap over samples, and Wilson's, which takes samples as independent."
    if beside:
        yield f"Paper: as printed for Known, with {paper.tables()['judge']['model']} as judge. {paper.SOURCE}."


def _judge(metric: str, judge: str, result: PartResult) -> str:
    """Its name, and who it was that answered."""
    trials = (trial.key for sample in result.part.samples for trial in sample.trials if trial.metric == metric)
    records: Iterator[Mapping[str, Any]] = (result.found.records[each] for each in trials if each in result.found.records)
    models = sorted({model for record in records for model in record.get(ANSWERERS, ())})
    return f"{judge or 'not named'}; answered by {', '.join(models) if models else 'nobody that gave a name'}"


def _agreements(agreements: Sequence[Agreement], where: str) -> Table:
    columns = ("judges", "form", "equal verdicts [95 %]", "Cohen's kappa", "verdicts", "samples")
    rows = [
        (
            f"{each.metric} and {each.other}", FORMS[each.form], number(each.equal, signed=False),
            NONE if each.kappa is None else f"{each.kappa:+.2f}", f"{each.cells:,}", f"{each.samples:,}",
        )
        for each in agreements
    ]  # fmt: skip
    notes = (
        "A verdict is on one sample and one method or control. Kappa is 0 where two judges agree as often as by chance, 1 where they "
        "always do; a dash where both say the same of everything.",
    )
    return Table(f"Agreement of the judges on {where}", columns, tuple(rows), notes)


def _least_table(summary: MinimalWordsSummary, result: PartResult, where: str) -> Table:
    columns = ("method", "share of words [95 %]", "samples out", "calls", "calls, one word at a time", "saved")
    rows = []
    for row in summary.rows:
        calls = (f"{each:,.0f}" for each in (row.calls, row.plain_calls, row.saved))
        rows.append((_row_name(row.method, row.control), number(row.mean, signed=False), f"{row.out:,}", *calls))
    notes = [
        f"Judge: {_judge(summary.metric, summary.judge, result)}.",
        f"{summary.samples} samples that every row has, {summary.clusters} clusters; lower is better. {accounting(summary.metric, result)}",
        *(f"{remark[0].upper()}{remark[1:]}." for remark in summary.remarks),
        "The least important words are dropped until the answer is wrong: the share that was kept at the last right one. Out: the judge "
        "is wrong with all words. Calls: what was asked for, before the cache, of the samples that are not out.",
    ]
    return Table(f"Figure 3: minimum top-p, {FORMS.get(summary.form, summary.form)}, on {where}", columns, tuple(rows), tuple(notes))


def _least_figure(summary: MinimalWordsSummary, name: str, where: str) -> Figure:
    def draw(form: Form) -> bytes:
        return minimal_words_plot(summary, where, form)

    return Figure(name, f"Figure 3: the smallest share of words that the judge still answers with, {where}", draw)


def _against_table(found: Correlation, where: str) -> Table:
    columns = ("method", "faithfulness [95 %]", f"answerability, {FORMS.get(found.form, found.form)} [95 %]")
    rows = [
        (_row_name(each.method, each.control), number(each.faithfulness, signed=True), number(each.rate, signed=False))
        for each in found.points
    ]
    notes = [
        f"Spearman's rank correlation over {found.methods} methods, controls left out: {number(found.spearman, signed=True)}. Its interval "
        "says how well this data knows the ranks, not what other methods would do.",
        f"{found.samples} samples that every row has under all three metrics.",
        *(f"{remark[0].upper()}{remark[1:]}." for remark in found.remarks),
    ]
    return Table(_against_title(found, where), columns, tuple(rows), tuple(notes))


def _against_title(found: Correlation, where: str) -> str:
    return f"Figure 4: {found.faithfulness} against {found.answerability} on {where}"


def _against_figure(found: Correlation, name: str, where: str) -> Figure:
    def draw(form: Form) -> bytes:
        return correlation_plot(found, f"{found.faithfulness} and {found.answerability}\n{where}", form)

    return Figure(name, _against_title(found, where), draw)
