"""A run's report: every table and figure that its records allow, beside the paper's. The same records give the same bytes."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.report import longra
from noiser.experiments.report.answer_tables import answerability_sections, keep_answerers
from noiser.experiments.report.differences import differences
from noiser.experiments.report.samples import keep_noted, sample_sections
from noiser.experiments.report.tables import CellResult, bounds_tables, counts_table, format_number, metric_tables
from noiser.experiments.schema import ATTRIBUTION, SAMPLE
from noiser.experiments.status import run_status
from noiser.experiments.trials import GridCell, RunContents
from noiser.results.tables import FAITHFULNESS
from noiser.storage import slug
from noiser.views.documents import Document, Figure, Form, Section, Table
from noiser.views.plots import cost_plot, forest_plot, share_plot

UNUSED_FIELDS = ("steps", "trace", "notes")
"""Fields of records that only other readers need."""
SECTIONS = ("metrics", "bounds", "answerability", "longra", "samples", "prompts", "cost")
"""The optional sections. The run itself and the differences from the paper are always there."""
ALL_METRICS = "all metrics"


def report(folder: RunFolder, *, timings: bool = True, only: Sequence[str] = SECTIONS, examples: int = 0) -> Document:
    """The report of a run.

    Args:
        folder: the run.
        timings: False leaves out everything that depends on a clock.
        only: the optional sections that are wanted. Sections without content are left out.
        examples: how many samples of each cell an HTML page shows in the viewer.

    Raises RunError if records contradict each other.
    """
    index, contents = RecordIndex(folder, without=UNUSED_FIELDS, digest=_digest), RunContents(folder)
    results = [CellResult(cell, folder, index) for cell in contents.cells if cell.samples]
    sections = [
        _overview(folder, index, contents),
        *(section for name in SECTIONS if name in only for section in _sections(name, results, contents, timings, examples)),
        Section("What differs from the paper and why", paragraphs=tuple(differences(folder))),
    ]
    title = f"{', '.join(folder.fingerprint['models'])} on {', '.join(folder.fingerprint['data'])}"
    return Document(title, tuple(section for section in sections if section.tables or section.paragraphs))


def _digest(record: dict[str, Any]) -> None:
    keep_answerers(record)
    keep_noted(record)


def _sections(name: str, results: Sequence[CellResult], contents: RunContents, timings: bool, examples: int) -> list[Section]:
    """The sections of one name of SECTIONS."""
    fingerprint = contents.fingerprint
    match name:
        case "metrics":
            return [_metrics(results, fingerprint)] if fingerprint["metrics"] else []
        case "bounds":
            return [Section("Noiser's bounds", tables=tuple(table for result in results for table in bounds_tables(result)))]
        case "answerability":
            return answerability_sections(results)
        case "longra":
            return [_score_shares(result) for result in results if result.kind == "longra"]
        case "samples":
            return list(sample_sections(results, examples if timings else 0))
        case "prompts":
            return [Section("Prompts", tables=(counts_table(contents.cells, fingerprint),))]
        case _:
            return [_costs(results)] if timings else []


def _metrics(results: Sequence[CellResult], fingerprint: Mapping[str, Any]) -> Section:
    tables = tuple(metric_tables(results, fingerprint))
    return Section("Faithfulness and other metrics", tables=tables, figures=tuple(_forest_plots(results)))


def _overview(folder: RunFolder, index: RecordIndex, contents: RunContents) -> Section:
    status, fingerprint = run_status(folder, index, contents), folder.fingerprint
    counts = sorted(status.statuses.items(), key=lambda item: (-item[1], item[0]))
    sums = " + ".join(f"{count:,} {name}" for name, count in counts)
    paragraphs = [
        f"{status.done:,} of {status.samples:,} samples are done{'' if status.complete else ': the run is not complete'}.",
        f"Every planned trial has one status: {status.planned:,} = {sums or 0}.",
        *(f"Damaged, left out and named: {line}." for line in status.damaged),
        f"Seed {fingerprint['seed']}. Intervals are 95 %, by jackknife over clusters.",
    ]
    models = [
        (label, *(str(facts[name] or "default") for name in ("revision", "dtype", "attention")))
        for label, facts in fingerprint["models"].items()
    ]
    data = [
        (label, f"{facts['rows']:,}", facts["match"], *_usage(facts), facts["sha256"][:16]) for label, facts in fingerprint["data"].items()
    ]
    tables = (
        Table("Models", ("model", "revision", "dtype", "attention"), tuple(models)),
        Table("Data", ("data", "rows", "kept by", "explained", "limit", "SHA-256 begins"), tuple(data)),
    )
    return Section("The run", tuple(paragraphs), tables)


def _usage(data: Mapping[str, Any]) -> tuple[str, str]:
    return f"{data['generate']} tokens" if data["generate"] else "next token", f"{data['limit']:,}" if data["limit"] else "none"


def _forest_plots(results: Sequence[CellResult]) -> Iterator[Figure]:
    for index, result in enumerate(results):
        for number, (name, summary) in enumerate(result.summaries.items()):

            def draw(form: Form, summary: Any = summary, model: str = result.cell.model) -> bytes:
                return forest_plot(summary, model, form)

            caption = f"{name} of {result.cell.model} on {result.cell.data}, 95 % intervals"
            yield Figure(f"metric-{index}-{number}", caption, draw)


def _score_shares(result: CellResult) -> Section:
    """Figure 2 of the paper."""
    shares_by_type = longra.by_type(result.cell, result.index)
    tables, figures = [], []
    for index, (kind, shares) in enumerate(sorted(shares_by_type.items(), key=lambda item: (item[0] != "all", item[0]))):
        where = f"{result.cell.model} on {result.cell.data}, {kind}"
        rows = [
            (method, *(format_number(mean.parts[part], signed=False) for part in longra.PARTS), f"{mean.samples:,}")
            for method, mean in shares.items()
        ]
        tables.append(Table(f"Shares of the positive scores: {where}", ("method", *longra.PARTS, "samples"), tuple(rows)))

        def draw(form: Form, shares: Mapping[str, longra.MeanShares] = shares, where: str = where) -> bytes:
            return share_plot({method: mean.parts for method, mean in shares.items()}, where, form)

        figures.append(Figure(f"longra-{index}-{slug(kind, keep='') or 'none'}", f"Figure 2: where the positive scores lie, {where}", draw))
    explanation = (
        "relative: the word that the answer goes with (in the capital types it is the country), outside the parentheses; "
        "capital: that word; distractor: the sentence in parentheses; main part: everything else. A token that reaches over an edge is "
        "divided by its characters. A token without text is left out. Rows about the same word are resampled together."
    )
    return Section(f"Figure 2: where the scores lie on {result.cell.data}", (explanation,), tuple(tables), tuple(figures))


def _costs(results: Sequence[CellResult]) -> Section:
    tables, figures = [], []
    for index, result in enumerate(results):
        cell_costs, where = costs(result.cell, result.index), f"{result.cell.model} on {result.cell.data}"
        tables.append(_cost_table(cell_costs, where))
        name = next((name for name in result.summaries if name.startswith(FAITHFULNESS)), None)
        if name is None:
            continue
        rows = [row for row in result.summaries[name].rows if row.log_ratio and row.log_ratio.value is not None and not row.control]
        points = [(row.method, cell_costs[row.method]["seconds"], row.log_ratio) for row in rows if row.method in cell_costs]

        def draw(form: Form, points: Any = points, title: str = f"{name}: {where}") -> bytes:
            return cost_plot(points, title, form)

        figures.append(Figure(f"cost-{index}", f"Faithfulness against seconds: {where}", draw))
    return Section("Cost", (), tuple(tables), tuple(figures))


def _cost_table(cell_costs: Mapping[str, Mapping[str, float]], where: str) -> Table:
    rows = [
        (label, f"{cost['seconds']:.3f}", f"{cost['forward_tokens']:,.0f}", f"{cost['backward_tokens']:,.0f}", f"{cost['samples']:,}")
        for label, cost in cell_costs.items()
    ]
    columns = ("method", "seconds (median)", "tokens forward", "tokens backward", "samples")
    note = "Tokens: mean of a sample. The first method that needs a clean run pays for it; others reuse it."
    return Table(f"Cost of a sample: {where}", columns, tuple(rows), (note,))


def costs(cell: GridCell, index: RecordIndex) -> dict[str, dict[str, float]]:
    """The cost of a sample, for each method and for all metrics together: median seconds, mean tokens."""
    records: dict[str, list[Mapping[str, Any]]] = {}
    for sample in cell.samples:
        by_method = [(trial.method, index.find(trial.key, trial.kind)) for trial in sample.trials if trial.kind == ATTRIBUTION]
        for label, record in [*by_method, (ALL_METRICS, index.find(sample.key, SAMPLE))]:
            if record is not None and record.get("cost"):
                records.setdefault(label, []).append(record["cost"])
    if ALL_METRICS in records:
        records[ALL_METRICS] = records.pop(ALL_METRICS)  # the last row
    return {
        label: {
            "seconds": median(cost["seconds"] for cost in sample_costs),
            **{name: sum(cost[name] for cost in sample_costs) / len(sample_costs) for name in ("forward_tokens", "backward_tokens")},
            "samples": len(sample_costs),
        }
        for label, sample_costs in records.items()
    }
