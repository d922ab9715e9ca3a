"""`noiser report`, `noiser merge`, `noiser export`: a run's folder in; a document, another folder or a table out."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from noiser.commands.output import Output, console
from noiser.commands.run import standing
from noiser.errors import OptionError
from noiser.experiments.export import FORMS, WHAT, export
from noiser.experiments.folder import RunFolder
from noiser.experiments.merge import merge
from noiser.experiments.report.report import report
from noiser.storage import write_whole
from noiser.views.documents import Document, to_html, to_latex, to_markdown

FORMATS = ("md", "html", "latex")


def run(folder: Path, output: Output, figures: Path | None, *, timings: bool = True, samples: int = 10) -> int:
    """Write the report; its plots as SVG and PNG into `figures`, by default into a folder beside the file."""
    document = report(RunFolder.open(folder), timings=timings, examples=samples if output.form == "html" else 0)
    place = figures if figures is not None else _beside(output)
    if place is not None:
        save_figures(document, place)
    with output.opened() as sink:
        sink.write(rendered(document, output.form, _relative(place, output)))
    return 0


def rendered(document: Document, form: str, figures: str | None = "figures") -> str:
    """The document in its form, with where its plots are found from there; None: they are not."""
    return to_html(document) if form == "html" else to_markdown(document, figures) if form == "md" else to_latex(document, figures)


def save_figures(document: Document, folder: Path) -> None:
    """Every plot as SVG and PNG. Raises OptionError where the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--figures wants a folder that can be written; {folder}: {error.strerror}") from error
    for figure in document.figures:
        for form in ("svg", "png"):
            write_whole(folder / f"{figure.name}.{form}", figure.draw(form))


def _beside(output: Output) -> Path | None:
    """HTML has its plots inside."""
    return None if output.path is None or output.form == "html" else output.path.with_name(f"{output.path.stem}-figures")


def _relative(place: Path | None, output: Output) -> str | None:
    if place is None:
        return None
    if output.path is None:
        return place.as_posix()
    return Path(os.path.relpath(place, output.path.parent)).as_posix()


def combine(folders: Sequence[Path], out: Path) -> int:
    """`noiser merge`; the exit status is 1 where the run is not complete."""
    found = merge(folders, out)
    console(sys.stderr).print(standing(found, out))
    return 0 if found.complete else 1


def flat(folder: Path, what: str, form: str, out: Path | None) -> int:
    """`noiser export`."""
    for option, value, has in (("--to", form, FORMS), ("--what", what, WHAT)):
        if value not in has:
            raise OptionError(f"{option} must be one of {', '.join(has)}; got {value!r}")
    place = out or Path(f"{folder.resolve().name}-{what}.{form}")
    rows = export(RunFolder.open(folder), what, form, place)
    sys.stderr.write(f"{rows:,} rows in {place}\n")
    return 0
