"""`noiser report`, `noiser merge`, `noiser export`: what a run found, as a document, in one folder, or as a flat table."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noiser.cli.options import OUTPUT, Out, expand_options, format_option
from noiser.cli.outputs import Output, console
from noiser.cli.status import Folder, summary
from noiser.errors import OptionError, require_extra

if TYPE_CHECKING:
    from noiser.views.documents import Document

FORMATS = ("md", "html", "latex")


@expand_options
def report(
    folder: Folder,
    *,
    format_: Annotated[str, format_option("md, html (one file with plots), latex.")] = "md",
    out: Out = None,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where plots are written as SVG and PNG. (default: beside --out)", rich_help_panel=OUTPUT),
    ] = None,
    timings: Annotated[
        bool,
        typer.Option(
            "--timings/--no-timings", help="Report seconds. Without them, the same run gives the same bytes.", rich_help_panel=OUTPUT
        ),
    ] = True,
    samples: Annotated[
        int, typer.Option(metavar="N", min=0, help="Show N samples with all their scores, in HTML.", rich_help_panel=OUTPUT)
    ] = 10,
) -> None:
    """Tables and figures of a run with intervals, beside the paper's, and the differences."""
    from noiser.experiments.folder import RunFolder
    from noiser.experiments.report.report import report

    output = Output.checked(format_, out, FORMATS)
    if output.format == "html" or output.path is not None or figures is not None:
        require_extra("plots", "a report with plots")
    document = report(RunFolder.open(folder), timings=timings, examples=samples if output.format == "html" else 0)
    figure_folder = figures if figures is not None else _default_figure_folder(output)
    if figure_folder is not None:
        save_figures(document, figure_folder)
    with output.open() as sink:
        sink.write(render(document, output.format, _relative_path(figure_folder, output)))


def render(document: "Document", format_: str, figures: str | None = "figures") -> str:
    """The document as md, html or latex. `figures` is the path of its plots in the document; None leaves them out."""
    from noiser.views.documents import to_html, to_latex, to_markdown

    if format_ == "html":
        return to_html(document)
    return to_markdown(document, figures) if format_ == "md" else to_latex(document, figures)


def save_figures(document: "Document", folder: Path) -> None:
    """Write every plot as SVG and PNG. Raises OptionError if the folder cannot be made."""
    from noiser.storage import write_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--figures wants a folder that can be written; {folder}: {error.strerror}") from error
    for figure in document.figures:
        for format_ in ("svg", "png"):
            write_file(folder / f"{figure.name}.{format_}", figure.draw(format_))


def _default_figure_folder(output: Output) -> Path | None:
    """A folder beside the file. HTML holds its plots, and standard output has no folder."""
    return None if output.path is None or output.format == "html" else output.path.with_name(f"{output.path.stem}-figures")


def _relative_path(folder: Path | None, output: Output) -> str | None:
    """The path from the document to the folder."""
    if folder is None:
        return None
    if output.path is None:
        return folder.as_posix()
    return Path(os.path.relpath(folder, output.path.parent)).as_posix()


@expand_options
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of one run.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder, or one of the same run.", rich_help_panel=OUTPUT)],
) -> None:
    """Merge folders of one run from several machines into one folder. Every trial is kept once."""
    raise typer.Exit(merge_folders(folders, out))


def merge_folders(folders: Sequence[Path], out: Path) -> int:
    """The exit status is 1 if the merged run is not complete."""
    from noiser.experiments.merge import merge

    outcome = merge(folders, out)
    console(sys.stderr).print(summary(outcome, out))
    return 0 if outcome.complete else 1


@expand_options
def export(
    folder: Folder,
    *,
    to: Annotated[str, typer.Option(help="The format: parquet, csv, jsonl.", rich_help_panel=OUTPUT)] = "parquet",
    what: Annotated[
        str, typer.Option(help="values: one row for each trial; scores: one row for each token.", rich_help_panel=OUTPUT)
    ] = "values",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to this file. (default: named after the run)", rich_help_panel=OUTPUT)
    ] = None,
) -> None:
    """Write the records of a run as a flat table."""
    export_records(folder, what, to, out)


def export_records(folder: Path, what: str, format_: str, out: Path | None) -> None:
    """Raises OptionError for a format or table that does not exist."""
    from noiser.experiments.export import FORMS, WHAT, export
    from noiser.experiments.folder import RunFolder

    for option, value, choices in (("--to", format_, FORMS), ("--what", what, WHAT)):
        if value not in choices:
            raise OptionError(f"{option} must be one of {', '.join(choices)}; got {value!r}")
    path = out or Path(f"{folder.resolve().name}-{what}.{format_}")
    rows = export(RunFolder.open(folder), what, format_, path)
    sys.stderr.write(f"{rows:,} rows in {path}\n")
