"""The tables of a run, each beside the paper's if the paper prints one."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.report import paper
from noiser.experiments.trials import GridCell, row_status, value_records
from noiser.registry import read_label
from noiser.results.records import MethodRow, MetricColumn, Number, Record, Row, Summary
from noiser.results.statistics import wilson
from noiser.results.tables import FAITHFULNESS, summarise
from noiser.views.documents import Table

KIND_NAMES = {"known": "Known", "longra": "LongRA", "wikibio": "WikiBio", "jsonl": "your own data"}
TITLES = {FAITHFULNESS: "Table 1: faithfulness", "soft_ns": "Table 5: Soft-NS", "soft_nc": "Table 5: Soft-NC"}
DASH = "\u2013"
Fingerprint = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class CellResult:
    """One model on one data set, with its summaries."""

    cell: GridCell
    folder: RunFolder
    index: RecordIndex

    @property
    def fingerprint(self) -> Fingerprint:
        """The run's fingerprint."""
        return self.folder.fingerprint

    @property
    def kind(self) -> str:
        """The kind of data: known, longra, wikibio or jsonl."""
        return self.fingerprint["data"][self.cell.data]["kind"]

    @property
    def paper_column(self) -> str:
        """The paper's column for this model."""
        return paper.column(self.cell.model)

    @cached_property
    def method_rows(self) -> list[MethodRow]:
        """The run's methods and controls."""
        return method_rows(self.folder)

    @cached_property
    def metric_columns(self) -> list[MetricColumn]:
        """The run's metrics."""
        return metric_columns(self.folder)

    @cached_property
    def records(self) -> list[Record]:
        """The values of the metrics."""
        return value_records(self.cell, self.index)

    @cached_property
    def summaries(self) -> Mapping[str, Summary]:
        """By metric, `faithfulness:...` included."""
        summaries = summarise(self.records, self.method_rows, self.metric_columns)
        return {summary.metric: summary for summary in summaries}


def method_rows(folder: RunFolder) -> list[MethodRow]:
    """A run's methods and controls, read from its fingerprint."""
    methods, controls = folder.fingerprint["methods"].items(), folder.display["controls"]
    return [MethodRow(label, method["method"], method.get("options", {}), label in controls) for label, method in methods]


def metric_columns(folder: RunFolder) -> list[MetricColumn]:
    """A run's metrics, read from its fingerprint."""
    metrics, display = folder.fingerprint["metrics"].items(), folder.display["metrics"]
    return [MetricColumn(label, metric["metric"], metric["options"], **display[label]) for label, metric in metrics]


def format_number(number: Number | None, *, signed: bool) -> str:
    """A value and its interval: `+0.41 [+0.30, +0.52]`; a dash if there is no value."""
    if number is None or number.value is None:
        return DASH
    form = "+.2f" if signed else ".3f"
    interval = "" if number.low is None or number.high is None else f" [{number.low:{form}}, {number.high:{form}}]"
    return f"{number.value:{form}}{interval}"


def row_name(method: str, *, control: bool) -> str:
    """A method's name in a table."""
    return f"{method} (control)" if control else method


def metric_tables(results: Sequence[CellResult], fingerprint: Fingerprint) -> Iterator[Table]:
    """A table for each metric and data set, models side by side: first faithfulness (table 1), then every metric by itself.

    Soft-NS and Soft-NC stand apart, as in table 5.
    """
    names = list(dict.fromkeys(name for result in results for name in result.summaries))
    names.sort(key=lambda name: not name.startswith(FAITHFULNESS))
    for name in names:
        for data in fingerprint["data"]:
            cells = [result for result in results if result.cell.data == data and name in result.summaries]
            if any(row.mean.value is not None or row.log_ratio for result in cells for row in result.summaries[name].rows):
                yield _MetricTable(name, data, cells).table()


class _MetricTable:
    """One metric on one data set; each model has one to three columns."""

    def __init__(self, name: str, data: str, results: Sequence[CellResult]) -> None:
        self.name, self.data, self.results = name, data, results
        self.metric, self.options = read_label(name)
        self.relative = any(row.log_ratio for result in results for row in result.summaries[name].rows)
        self.shows_mean = self.relative and self.metric != FAITHFULNESS
        self.printed = [_printed(self.metric, result) for result in results]

    def table(self) -> Table:
        first = next((result for result in self.results if result.summaries[self.name].samples), self.results[0])
        rows = tuple(self._row(row) for row in first.summaries[self.name].rows)
        protocol = self.options.get("protocol", _protocol(self.results[0].fingerprint, self.name))
        title = f"{TITLES.get(self.metric, self.metric)} on {self.data}{f', protocol {protocol}' if protocol else ''}"
        return Table(title, self._columns(), rows, tuple(_notes(self.name, self.results, any(self.printed))))

    def _columns(self) -> tuple[str, ...]:
        columns = ["method"]
        for result, printed in zip(self.results, self.printed, strict=True):
            model = result.cell.model
            columns.append(f"{model}{' log-ratio to random' if self.relative else ''} [95 %]")
            columns += [f"{model} mean [95 %]"] * self.shows_mean + [f"paper, {result.paper_column}"] * bool(printed)
        return tuple(columns)

    def _row(self, first: Row) -> tuple[str, ...]:
        cells = [row_name(first.method, control=first.control)]
        for result, printed in zip(self.results, self.printed, strict=True):
            row = next(row for row in result.summaries[self.name].rows if row.method == first.method)
            letters = f" {row.group}" if row.group else ""
            cells.append(format_number(row.log_ratio if self.relative else row.mean, signed=self.relative) + letters)
            cells += [format_number(row.mean, signed=False)] * self.shows_mean
            cells += [printed.get(first.method, "")] * bool(printed)
        return tuple(cells)


def _protocol(fingerprint: Fingerprint, name: str) -> str:
    label = name.replace(FAITHFULNESS, "soft_ns", 1)
    return fingerprint["metrics"].get(label, {}).get("options", {}).get("protocol", "")


def _printed(metric: str, result: CellResult) -> dict[str, str]:
    """The paper's cells by our labels. A method under several labels stands beside each; Noiser stands beside its bound."""
    cells = {}
    for row in result.method_rows:
        bound = str(row.options.get("bound", "k_min"))
        if row.method == "noiser" and bound != "k_min":
            cells[row.label] = paper.bound(bound, result.paper_column) if metric == FAITHFULNESS and result.kind == "known" else ""
        elif metric == FAITHFULNESS:
            cells[row.label] = paper.faithfulness(result.kind, row.method, result.paper_column)
        elif metric in ("soft_ns", "soft_nc"):
            cells[row.label] = paper.soft(result.kind, row.method, metric, result.paper_column)
    return {label: cell for label, cell in cells.items() if cell}


def _notes(name: str, results: Sequence[CellResult], printed: bool) -> Iterator[str]:
    for result in results:
        summary, model = result.summaries[name], result.cell.model
        counts = f"{summary.samples} samples that every row has, {summary.clusters} clusters; {summary.better} is better."
        yield f"{model}: {counts} {accounting(name, result)}"
        yield from (f"{model}: {remark}." for remark in summary.remarks)
    if any(row.group for result in results for row in result.summaries[name].rows):
        yield "Methods that share a letter were not told apart (paired test, 5 %, Holm)."
    if printed:
        kind = KIND_NAMES[results[0].kind]
        yield f"Paper: as printed for {kind}, computed with the released code, so protocol=official is nearest to it. {paper.SOURCE}."
        if any(paper.SUSPECT in cell for result in results for cell in _printed(read_label(name)[0], result).values()):
            yield f"{paper.SUSPECT} The printed cell cannot be right, see the differences from the paper."


def accounting(name: str, result: CellResult) -> str:
    """How all planned trials of a table ended, including missing ones and those of rows that were not kept."""
    metrics = {column.label for column in result.metric_columns if column.label == name or _is_part_of(name, column)}
    counts: Counter[str] = Counter()
    for sample in result.cell.samples:
        records = [result.index.find(trial.key, trial.kind) for trial in sample.trials if trial.metric in metrics]
        counts.update("missing" if record is None else record["status"] for record in records)
    for row in result.cell.dropped:
        counts[row_status(row)] += len(result.method_rows) * len(metrics)
    return f"Trials: {counts.total():,} = {' + '.join(f'{count:,} {status}' for status, count in sorted(counts.items())) or 0}."


def _is_part_of(name: str, column: MetricColumn) -> bool:
    """True if the table of faithfulness with this name adds up the metric."""
    return name in (column.label.replace(part, FAITHFULNESS, 1) for part in ("soft_ns", "soft_nc") if column.metric == part)


def bounds_tables(result: CellResult) -> Iterator[Table]:
    """Table 2, if the run has Noiser with several bounds."""
    bounds = {row.label: str(row.options.get("bound", "k_min")) for row in result.method_rows if row.method == "noiser"}
    if len(set(bounds.values())) < 2:
        return
    for name, summary in result.summaries.items():
        if not name.startswith(FAITHFULNESS):
            continue
        protocol = read_label(name)[1].get("protocol", _protocol(result.fingerprint, name))
        rows = [
            (bounds[row.method], row.method, format_number(row.log_ratio, signed=True) + f" {row.group}",
             paper.bound(bounds[row.method], result.paper_column))
            for row in summary.rows if row.method in bounds
        ]  # fmt: skip
        columns = ("bound", "row", f"{result.cell.model} [95 %]", f"paper, {result.paper_column}")
        title = f"Table 2: Noiser's bounds on {result.cell.data}, protocol {protocol}"
        yield Table(title, columns, tuple(rows), tuple(_notes(name, [result], True)))


def counts_table(cells: Sequence[GridCell], fingerprint: Fingerprint) -> Table:
    """Table 7: how many prompts each model answers."""
    columns = ("data", "model", "rows looked at", "kept", "share [95 %]", "the others", "paper")
    notes = (
        "Wilson's intervals. Screening stops at the limit.",
        "The paper's counts are of all 1,209 rows of Known and all 573 of LongRA.",
    )
    rows = tuple(_counts_row(cell, fingerprint["data"][cell.data]) for cell in cells)
    return Table("Table 7: prompts that the model answers", columns, rows, notes)


def _counts_row(cell: GridCell, data: Mapping[str, Any]) -> tuple[str, ...]:
    if cell.rows is None:
        return (cell.data, cell.model, f"{data['rows']:,}", "not screened yet", "", "", "")
    reasons = Counter(row_status(row) for row in cell.dropped)
    screened = f"{len(cell.rows):,}" + ("" if len(cell.rows) == data["rows"] else f" of {data['rows']:,}")
    others = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    printed = paper.count(data["kind"], paper.column(cell.model))
    share = _share(len(cell.samples), len(cell.rows))
    return (cell.data, cell.model, screened, f"{len(cell.samples):,}", share, others, f"{printed:,}" if printed else DASH)


def _share(count: int, total: int) -> str:
    if not total:
        return DASH
    low, high = wilson(count, total)
    return f"{count / total:.1%} [{low:.1%}, {high:.1%}]"
