"""`noiser status`: how a run stands."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.options import Out, expand_options, format_option
from noiser.cli.outputs import Output, console

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from noiser.experiments.folder import RecordIndex
    from noiser.experiments.status import RunStatus
    from noiser.experiments.trials import RunContents

FORMATS = ("table", "json")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the run.", show_default=False)]


@expand_options
def status(folder: Folder, format_: Annotated[str, format_option("table, json.")] = "table", out: Out = None) -> None:
    """How does a run stand: which samples are done, how did the trials end, what is damaged?"""
    raise typer.Exit(_show(folder, Output.checked(format_, out, FORMATS)))


def _show(out: Path, output: Output) -> int:
    """The exit status is 1 if the run is not complete, or if rows could not be read."""
    from noiser.experiments.folder import RecordIndex, RunFolder
    from noiser.experiments.status import run_status
    from noiser.experiments.trials import RunContents

    folder = RunFolder.open(out)
    records, contents = RecordIndex(folder, whole=False), RunContents(folder)
    result = run_status(folder, records, contents)
    cells = _cells(records, contents)
    unknown = len(records.records.keys() - {key for sample in contents.samples() for key in sample.record_kinds()})
    with output.open() as sink:
        if output.format == "json":
            counts = {"planned": result.planned, "parts": cells, "files": records.files, "unknown_records": unknown}
            output.write_json({"schema": 1, **asdict(result), **counts}, sink)
        else:
            console(sink).print(_table(cells), *_file_lines(records.files, unknown), summary(result, out), sep="\n")
    return 0 if result.complete and not result.unreadable else 1


def _cells(records: "RecordIndex", contents: "RunContents") -> list[dict[str, Any]]:
    """For each model and data set: the rows, the samples, and how their trials ended."""
    from noiser.experiments.trials import count_statuses, row_status, unfinished

    cells = []
    for cell in contents.cells:
        counts = count_statuses(cell.samples, records)
        for row in cell.dropped:
            counts[row_status(row)] = counts.get(row_status(row), 0) + len(cell.specs)
        done = len(cell.samples) - len(unfinished(cell.samples, records))
        rows = len(cell.rows) if cell.rows is not None else None
        cells.append({"model": cell.model, "data": cell.data, "rows": rows, "kept": len(cell.samples), "done": done, "statuses": counts})
    return cells


def summary(outcome: "RunStatus", out: Path) -> "Text":
    """How a run stands, in a few lines."""
    from rich.text import Text

    from noiser.views.labels import visible

    counts = sorted(outcome.statuses.items(), key=lambda item: -item[1])
    trials = " + ".join(f"{count:,} {visible(status)}" for status, count in counts)
    unreadable = f", {outcome.unreadable:,} unreadable rows" if outcome.unreadable else ""
    lines = [
        f"{outcome.done:,} of {outcome.samples:,} samples done, {outcome.failed - outcome.unreadable:,} with failures{unreadable}",
        f"{outcome.planned:,} trials = {trials or 0}",
        *(f"cannot be read: {visible(reason)}" for reason in outcome.unreadable_reasons),
        *([f"... and {left:,} more"] if (left := outcome.unreadable - len(outcome.unreadable_reasons)) else []),
        *(f"damaged: {visible(damage)}" for damage in outcome.damaged),
    ]
    if outcome.complete:
        lines.append(f"noiser report {visible(str(out))} shows the tables")
    else:
        lines.append("not complete: the same command goes on from here (with several shards, each goes on with its own part)")
    return Text("\n".join(lines))


def _table(cells: list[dict[str, Any]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from noiser.views.labels import visible

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("model", "data", "rows", "kept", "done", "trials"):
        table.add_column(heading, justify="left" if heading in ("model", "data", "trials") else "right")
    for cell in cells:
        trials = ", ".join(f"{count:,} {status}" for status, count in sorted(cell["statuses"].items()))
        rows = "?" if cell["rows"] is None else f"{cell['rows']:,}"
        texts = (cell["model"], cell["data"], rows, f"{cell['kept']:,}", f"{cell['done']:,}", trials or "not screened yet")
        table.add_row(*(Text(visible(text)) for text in texts))
    return table


def _file_lines(files: Mapping[str, int], unknown: int) -> list[str]:
    lines = [f"{sum(files.values()):,} records in {len(files)} files"]
    if unknown:
        lines.append(f"{unknown:,} records belong to no trial of this run and are not counted")
    return lines
