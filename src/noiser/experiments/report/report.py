"""A run's report: every table and figure that its records allow, beside the paper's. The same records give the same bytes."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.report import longra
from noiser.experiments.report.answer_tables import answerability, keep_answerers
from noiser.experiments.report.differences import differences
from noiser.experiments.report.samples import keep_noted, samples
from noiser.experiments.report.tables import PartResult, bounds_table, counts_table, metric_tables, number
from noiser.experiments.run import outcome
from noiser.experiments.trials import ATTRIBUTION, GridCell, Work
from noiser.results.tables import FAITHFULNESS
from noiser.views.documents import Document, Figure, Form, Section, Table
from noiser.views.plots import cost_plot, forest_plot, share_plot

LARGE = ("steps", "trace", "notes")
"""What a record has for other readers."""
SECTIONS = ("metrics", "bounds", "answerability", "longra", "samples", "prompts", "cost")
"""What a report can be limited to; the run itself and what differs are always there."""


def report(folder: RunFolder, *, timings: bool = True, only: Sequence[str] = SECTIONS, examples: int = 0) -> Document:
    """The sections wanted, as far as there is anything in them; without `timings` only what no clock has a say in.
    `examples`: how many samples of each part a page shows with the viewer.

    Raises RunError where records contradict each other.
    """
    found, work = RecordIndex(folder, without=LARGE, digest=_digest), Work(folder)
    results = [PartResult(part, folder, found) for part in work.parts if part.samples]
    measured = folder.identity["metrics"]
    made: dict[str, Iterator[Section]] = {
        "metrics": (_metrics(results, folder) for _ in (1,) if measured),
        "bounds": (Section("Noiser's bounds", tables=tuple(table for each in results for table in bounds_table(each))) for _ in (1,)),
        "answerability": answerability(results),
        "longra": (_mass(each) for each in results if each.kind == "longra"),
        "samples": samples(results, examples if timings else 0),
        "prompts": (Section("Prompts", tables=(counts_table(work.parts, folder.identity),)) for _ in (1,)),
        "cost": (_costs(results) for _ in (1,) if timings),
    }
    sections = [section for name in SECTIONS if name in only for section in made[name]]
    sections = [_overview(folder, found, work), *sections]
    sections.append(Section("What differs from the paper and why", paragraphs=tuple(differences(folder))))
    models = ", ".join(folder.identity["models"])
    return Document(f"{models} on {', '.join(folder.identity['data'])}", tuple(each for each in sections if each.tables or each.paragraphs))


def _digest(record: dict[str, Any]) -> None:
    keep_answerers(record)
    keep_noted(record)


def _metrics(results: Sequence[PartResult], folder: RunFolder) -> Section:
    tables = tuple(metric_tables(results, folder.identity))
    return Section("Faithfulness and other metrics", tables=tables, figures=tuple(_forests(results)))


def _overview(folder: RunFolder, found: RecordIndex, work: Work) -> Section:
    stands = outcome(folder, found, work)
    sums = " + ".join(f"{count:,} {status}" for status, count in sorted(stands.statuses.items(), key=lambda item: (-item[1], item[0])))
    said = [f"{stands.done:,} of {stands.samples:,} samples are done{'' if stands.complete else ': the run is not complete'}."]
    said.append(f"Every planned trial has one status: {stands.planned:,} = {sums or 0}.")
    said += [f"Damaged, left out and named: {each}." for each in stands.damaged]
    known = folder.identity["models"].items(), folder.identity["data"].items()
    models = [(label, *(str(each[name] or "default") for name in ("revision", "dtype", "attention"))) for label, each in known[0]]
    data = [(label, f"{each['rows']:,}", each["match"], *_limits(each), each["sha256"][:16]) for label, each in known[1]]
    tables = (
        Table("Models", ("model", "revision", "dtype", "attention"), tuple(models)),
        Table("Data", ("data", "rows", "kept by", "explained", "limit", "SHA-256 begins"), tuple(data)),
    )
    return Section("The run", (*said, f"Seed {folder.identity['seed']}. Intervals are 95 %, by cluster bootstrap over samples."), tables)


def _limits(data: Mapping[str, Any]) -> tuple[str, str]:
    return f"{data['generate']} tokens" if data["generate"] else "next token", f"{data['limit']:,}" if data["limit"] else "none"


def _forests(results: Sequence[PartResult]) -> Iterator[Figure]:
    for place, each in enumerate(results):
        for number_, (name, summary) in enumerate(each.summaries.items()):

            def draw(form: Form, summary: Any = summary, model: str = each.part.model) -> bytes:
                return forest_plot(summary, model, form)

            yield Figure(f"metric-{place}-{number_}", f"{name} of {each.part.model} on {each.part.data}, 95 % intervals", draw)


def _mass(result: PartResult) -> Section:
    """Figure 2."""
    found = longra.by_type(result.part, result.found, result.identity["seed"])
    tables, figures = [], []
    for place, (kind, rows) in enumerate(sorted(found.items(), key=lambda item: (item[0] != "all", item[0]))):
        where = f"{result.part.model} on {result.part.data}, {kind}"
        columns = ("method", *longra.PARTS, "samples")
        cells = [
            (method, *(number(own.parts[part], signed=False) for part in longra.PARTS), f"{own.samples:,}") for method, own in rows.items()
        ]
        tables.append(Table(f"Shares of the positive scores: {where}", columns, tuple(cells)))

        def draw(form: Form, rows: Mapping[str, longra.Mass] = rows, where: str = where) -> bytes:
            return share_plot({method: own.parts for method, own in rows.items()}, where, form)

        figures.append(Figure(f"longra-{place}-{_slug(kind)}", f"Figure 2: where the positive scores lie, {where}", draw))
    said = (
        "relative: the word that the answer goes with (of the capital types the country), where it stands outside of the parentheses; "
        "capital: that word; distractor: the sentence in parentheses; main part: all else. A token that reaches over an edge is divided "
        "by its characters, one without text is left out. Rows about the same word are resampled together."
    )
    return Section(f"Figure 2: where the scores lie on {result.part.data}", (said,), tuple(tables), tuple(figures))


def _costs(results: Sequence[PartResult]) -> Section:
    tables, figures = [], []
    for place, each in enumerate(results):
        spent = costs(each.part, each.found)
        cells = [
            (label, f"{own['seconds']:.3f}", f"{own['forward_tokens']:,.0f}", f"{own['backward_tokens']:,.0f}", f"{own['samples']:,}")
            for label, own in spent.items()
        ]
        columns = ("method", "seconds (median)", "tokens forward", "tokens backward", "samples")
        note = "Tokens: mean of a sample. The first method that needs a clean run pays for it; others reuse it."
        tables.append(Table(f"Cost of a sample: {each.part.model} on {each.part.data}", columns, tuple(cells), (note,)))
        name = next((name for name in each.summaries if name.startswith(FAITHFULNESS)), None)
        if name is None:
            continue
        rows = [row for row in each.summaries[name].rows if row.log_ratio and row.log_ratio.value is not None and not row.control]
        points = [(row.method, spent[row.method]["seconds"], row.log_ratio) for row in rows if row.method in spent]

        def draw(form: Form, points: Any = points, title: str = f"{name}: {each.part.model} on {each.part.data}") -> bytes:
            return cost_plot(points, title, form)

        figures.append(Figure(f"cost-{place}", f"Faithfulness against seconds: {each.part.model} on {each.part.data}", draw))
    return Section("Cost", (), tuple(tables), tuple(figures))


def costs(part: GridCell, found: RecordIndex) -> dict[str, dict[str, float]]:
    """What a sample takes, by method and for all metrics together: median seconds, mean tokens."""
    spent: dict[str, list[Mapping[str, Any]]] = {}
    for sample in part.samples:
        records = [(trial.method, found.records.get(trial.key)) for trial in sample.trials if trial.kind == ATTRIBUTION]
        for label, record in [*records, ("all metrics", found.records.get(sample.key))]:
            if record is not None and record.get("cost"):
                spent.setdefault(label, []).append(record["cost"])
    if "all metrics" in spent:
        spent["all metrics"] = spent.pop("all metrics")
    return {
        label: {
            "seconds": median(each["seconds"] for each in own),
            **{name: sum(each[name] for each in own) / len(own) for name in ("forward_tokens", "backward_tokens")},
            "samples": len(own),
        }
        for label, own in spent.items()
    }


def _slug(text: str) -> str:
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in text) or "none"
