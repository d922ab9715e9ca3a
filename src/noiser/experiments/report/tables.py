"""The tables of a run, each beside the paper's where it prints one."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.report import paper
from noiser.experiments.trials import GridCell, row_status, values
from noiser.registry import read_label
from noiser.results.records import MethodRow, MetricColumn, Number, Record, Row, Summary
from noiser.results.statistics import wilson
from noiser.results.tables import FAITHFULNESS, summarise
from noiser.views.documents import Table

KINDS = {"known": "Known", "longra": "LongRA", "wikibio": "WikiBio", "jsonl": "your own data"}
Identity = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class PartResult:
    """One model on one data set, with its summaries."""

    part: GridCell
    folder: RunFolder
    found: RecordIndex

    @property
    def identity(self) -> Identity:
        """Of the run."""
        return self.folder.identity

    @property
    def kind(self) -> str:
        """What the data is: known, longra, wikibio, jsonl."""
        return self.identity["data"][self.part.data]["kind"]

    @property
    def column(self) -> str:
        """The paper's column that belongs beside it."""
        return paper.column(self.part.model)

    @cached_property
    def methods(self) -> list[MethodRow]:
        """The run's rows."""
        return method_rows(self.folder)

    @cached_property
    def metrics(self) -> list[MetricColumn]:
        """The run's columns."""
        return metric_columns(self.folder)

    @cached_property
    def records(self) -> list[Record]:
        """Its values."""
        return values(self.part, self.found)

    @cached_property
    def summaries(self) -> Mapping[str, Summary]:
        """By metric, `faithfulness:...` among them."""
        found = summarise(self.records, self.methods, self.metrics, self.identity["seed"])
        return {each.metric: each for each in found}


def method_rows(folder: RunFolder) -> list[MethodRow]:
    """The rows that a run has, from what is written of it."""
    rows, controls = folder.identity["methods"].items(), folder.shown["controls"]
    return [MethodRow(label, each["method"], each.get("options", {}), label in controls) for label, each in rows]


def metric_columns(folder: RunFolder) -> list[MetricColumn]:
    """The columns that a run has."""
    columns, shown = folder.identity["metrics"].items(), folder.shown["metrics"]
    return [MetricColumn(label, each["metric"], each["options"], **shown[label]) for label, each in columns]


def number(found: Number | None, *, signed: bool) -> str:
    """A value and its interval: `+0.41 [+0.30, +0.52]`; a dash where there is none."""
    if found is None or found.value is None:
        return "\u2013"
    form = "+.2f" if signed else ".3f"
    ends = "" if found.low is None or found.high is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.value:{form}}{ends}"


def metric_tables(results: Sequence[PartResult], identity: Identity) -> Iterator[Table]:
    """Table 1 for each way of measuring faithfulness and each data set, the models side by side; then every metric by itself,
    Soft-NS and Soft-NC as table 5 has them."""
    names = list(dict.fromkeys(name for each in results for name in each.summaries))
    names.sort(key=lambda name: not name.startswith(FAITHFULNESS))
    for name in names:
        for data in identity["data"]:
            own = [each for each in results if each.part.data == data and name in each.summaries]
            if own and any(row.mean.value is not None or row.log_ratio for each in own for row in each.summaries[name].rows):
                yield _metric_table(name, data, own)


def _metric_table(name: str, data: str, own: Sequence[PartResult]) -> Table:
    metric, options = read_label(name)
    first = next((each for each in own if each.summaries[name].samples), own[0])
    relative = any(row.log_ratio for each in own for row in each.summaries[name].rows)
    printed = [_printed(metric, each) for each in own]
    columns = ["method"]
    for each in own:
        columns.append(f"{each.part.model}{' log-ratio to random' if relative else ''} [95 %]")
        columns += [f"{each.part.model} mean [95 %]"] if relative and metric != FAITHFULNESS else []
        columns += [f"paper, {each.column}"] if printed[own.index(each)] else []
    rows = []
    for label in [row.method for row in first.summaries[name].rows]:
        cells = [f"{label} (control)" if _row(first, name, label).control else label]
        for each, paper_says in zip(own, printed, strict=True):
            row = _row(each, name, label)
            letters = f" {row.group}" if row.group else ""
            cells.append(number(row.log_ratio if relative else row.mean, signed=relative) + letters)
            cells += [number(row.mean, signed=False)] if relative and metric != FAITHFULNESS else []
            cells += [paper_says.get(label, "")] if paper_says else []
        rows.append(tuple(cells))
    protocol = options.get("protocol", _protocol(own[0].identity, name))
    title = f"{'Table 1: f' if metric == FAITHFULNESS else ''}{_spoken(metric)} on {data}{f', protocol {protocol}' if protocol else ''}"
    return Table(title, tuple(columns), tuple(rows), tuple(_notes(name, own, any(printed))))


def _spoken(metric: str) -> str:
    names = {FAITHFULNESS: "aithfulness", "soft_ns": "Table 5: Soft-NS", "soft_nc": "Table 5: Soft-NC"}
    return names.get(metric, metric)


def _protocol(identity: Identity, name: str) -> str:
    label = name.replace(FAITHFULNESS, "soft_ns", 1)
    return identity["metrics"].get(label, {}).get("options", {}).get("protocol", "")


def _row(result: PartResult, name: str, label: str) -> Row:
    return next(row for row in result.summaries[name].rows if row.method == label)


def _printed(metric: str, result: PartResult) -> dict[str, str]:
    """What the paper prints, by our labels; a method under more than one label stands beside each, Noiser beside its bound."""
    found = {}
    for each in method_rows(result.folder):
        bound = str(each.options.get("bound", "k_min"))
        if each.method == "noiser" and bound != "k_min":
            found[each.label] = paper.bound(bound, result.column) if metric == FAITHFULNESS and result.kind == "known" else ""
        elif metric == FAITHFULNESS:
            found[each.label] = paper.faithfulness(result.kind, each.method, result.column)
        elif metric in ("soft_ns", "soft_nc"):
            found[each.label] = paper.part(result.kind, each.method, metric, result.column)
    return {label: said for label, said in found.items() if said}


def _notes(name: str, own: Sequence[PartResult], printed: bool) -> Iterator[str]:
    for each in own:
        summary = each.summaries[name]
        said = f"{each.part.model}: {summary.samples} samples that every row has, {summary.clusters} clusters; {summary.better} is better."
        yield f"{said} {accounting(name, each)}"
        yield from (f"{each.part.model}: {remark}." for remark in summary.remarks)
    if any(row.group for each in own for row in each.summaries[name].rows):
        yield "Methods that share a letter were not told apart (paired test, 5 %, Holm)."
    if printed:
        kind = KINDS[own[0].kind]
        yield f"Paper: as printed for {kind}, computed with the released code, so protocol=official is nearest to it. {paper.SOURCE}."
        if any(paper.SUSPECT in cell for each in own for cell in _printed(read_label(name)[0], each).values()):
            yield f"{paper.SUSPECT} The printed cell cannot be right, see what differs from the paper."


def accounting(name: str, result: PartResult) -> str:
    """How all planned trials behind a table ended, missing ones and those of rows that were not kept among them."""
    behind = {column.label for column in metric_columns(result.folder) if column.label == name or _sums_up(name, column)}
    counts: Counter[str] = Counter()
    for sample in result.part.samples:
        records = [result.found.records.get(trial.key) for trial in sample.trials if trial.metric in behind]
        counts.update("missing" if record is None else record["status"] for record in records)
    each = len(method_rows(result.folder)) * len(behind)
    for row in result.part.rows or ():
        if not row["kept"]:
            counts[row_status(row)] += each
    return f"Trials: {counts.total():,} = {' + '.join(f'{count:,} {status}' for status, count in sorted(counts.items())) or 0}."


def _sums_up(name: str, column: MetricColumn) -> bool:
    """Whether a table of faithfulness adds up this metric."""
    return name in (column.label.replace(part, FAITHFULNESS, 1) for part in ("soft_ns", "soft_nc") if column.metric == part)


def bounds_table(result: PartResult) -> Iterator[Table]:
    """Table 2, where the run has Noiser under more than one bound."""
    own = {each.label: each.options for each in method_rows(result.folder) if each.method == "noiser"}
    if len({options["bound"] for options in own.values()}) < 2:
        return
    for name, summary in result.summaries.items():
        if not name.startswith(FAITHFULNESS):
            continue
        protocol = read_label(name)[1].get("protocol", _protocol(result.identity, name))
        rows = [
            (str(own[row.method]["bound"]), row.method, number(row.log_ratio, signed=True) + f" {row.group}",
             paper.bound(str(own[row.method]["bound"]), result.column))
            for row in summary.rows if row.method in own
        ]  # fmt: skip
        columns = ("bound", "row", f"{result.part.model} [95 %]", f"paper, {result.column}")
        title = f"Table 2: Noiser's bounds on {result.part.data}, protocol {protocol}"
        yield Table(title, columns, tuple(rows), tuple(_notes(name, [result], True)))


def counts_table(parts: Sequence[GridCell], identity: Identity) -> Table:
    """Table 7: how many prompts each model answers."""
    rows = []
    for part in parts:
        data = identity["data"][part.data]
        if part.rows is None:
            rows.append((part.data, part.model, f"{data['rows']:,}", "not screened yet", "", "", ""))
            continue
        reasons: dict[str, int] = {}
        for row in part.rows:
            if not row["kept"]:
                reasons[row_status(row)] = reasons.get(row_status(row), 0) + 1
        share = _rate(len(part.samples), len(part.rows))
        printed = paper.count(data["kind"], paper.column(part.model))
        said = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        looked = f"{len(part.rows):,}" + ("" if len(part.rows) == data["rows"] else f" of {data['rows']:,}")
        rows.append((part.data, part.model, looked, f"{len(part.samples):,}", share, said, f"{printed:,}" if printed else "\u2013"))
    columns = ("data", "model", "rows looked at", "kept", "share [95 %]", "the others", "paper")
    notes = [
        "Wilson's intervals. Screening stops at the limit asked for.",
        "The paper's counts are of all 1,209 rows of Known and all 573 of LongRA.",
    ]
    return Table("Table 7: prompts that the model answers", columns, tuple(rows), tuple(notes))


def _rate(count: int, of: int) -> str:
    if not of:
        return "\u2013"
    low, high = wilson(count, of)
    return f"{count / of:.1%} [{low:.1%}, {high:.1%}]"
