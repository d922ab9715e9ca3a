"""What commands write: text, JSON lines, pages and figures, to standard output or a file."""

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.options import OUTPUT
from noiser.errors import OptionError, require_extra

if TYPE_CHECKING:
    from rich.console import Console

    from noiser.results.attribution import Attribution, Comparison
    from noiser.results.interactions import Interactions
    from noiser.views.viewer.data import View

FIGURES = {"svg", "png"}
PICTURES = {"html", *FIGURES}
"""Formats that the ending of a file selects."""


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """How scores are shown."""

    granularity: Annotated[
        str | None,
        typer.Option(help="Sum the scores over each token, word, sentence, line, turn or span. (default: token)", rich_help_panel=OUTPUT),
    ] = None
    normalize: Annotated[
        str,
        typer.Option(
            help="Scale the shown scores: none, clip_l1, abs_l1, softmax, minmax, signed_sum. JSON has both.", rich_help_panel=OUTPUT
        ),
    ] = "none"

    def check(self) -> None:
        """Raises OptionError for a granularity or normalization that does not exist."""
        from noiser.results.scores import NORMALIZATIONS
        from noiser.text.units import UNITS, is_available

        if self.normalize not in NORMALIZATIONS:
            raise OptionError(f"--normalize must be one of {', '.join(NORMALIZATIONS)}; got {self.normalize!r}")
        if self.granularity is not None and self.granularity not in UNITS:
            raise OptionError(f"--granularity must be one of {', '.join(UNITS)}; got {self.granularity!r}")
        if self.granularity is not None and not is_available(self.granularity):
            require_extra("units", f"--granularity {self.granularity}")

    def check_result(self, attribution: "Attribution") -> None:
        """Raises OptionError if this attribution cannot be normalized or summed so."""
        attribution.normalized(self.normalize)
        if self.granularity is not None:
            attribution.by(self.granularity)

    def extra_json(self, attribution: "Attribution") -> dict[str, Any]:
        """The normalized scores and the sums, beside the scores of the method."""
        record: dict[str, Any] = {}
        if self.normalize != "none":
            record["normalized"] = {"how": self.normalize, "scores": attribution.normalized(self.normalize).tolist()}
        if self.granularity is not None:
            record["by"] = attribution.by(self.granularity).to_dict()
        return record


@dataclass(frozen=True, kw_only=True)
class DisplayOptions(ScaleOptions):
    """How scores are shown, and whether more is computed about them."""

    curves: Annotated[
        bool | None,
        typer.Option(
            "--curves/--no-curves",
            help="Compute what removing the highest tokens does: at most 48 more rows for each method. (default: for html)",
            rich_help_panel=OUTPUT,
        ),
    ] = None

    def with_curves(self, format_: str) -> bool:
        """Whether curves are computed: if the user says so, else for a page."""
        return format_ == "html" if self.curves is None else self.curves


@dataclass(frozen=True)
class Output:
    """A format and a file, both checked."""

    format: str
    path: Path | None

    @classmethod
    def checked(cls, format_: str, path: Path | None, formats: tuple[str, ...]) -> "Output":
        """Raises OptionError for a format that does not exist or cannot be drawn here, or a file that cannot be written."""
        if format_ not in formats:
            raise OptionError(f"--format must be one of {', '.join(formats)}; got {format_!r}")
        if format_ in FIGURES:
            require_extra("plots", f"--format {format_}")
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise OptionError(f"cannot write to {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}")
        return cls(format_, path)

    def write(self, content: bytes) -> None:
        """Write everything at once. After an error, a file of an earlier result is unchanged."""
        from noiser.storage import write_file

        if self.path is not None:
            write_file(self.path, content)
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(content)

    @contextmanager
    def open(self) -> Iterator[IO[str]]:
        """Standard output, or the file as text. After an error in the block, a file of an earlier result is unchanged."""
        from noiser.storage import open_output

        if self.path is None:
            if isinstance(sys.stdout, io.TextIOWrapper) and not _is_utf8(sys.stdout):
                sys.stdout.reconfigure(errors="backslashreplace")
            yield sys.stdout
            return
        with open_output(self.path) as file:
            text = _TextFile(file, encoding="utf-8", newline="", write_through=True)
            try:
                yield text
            finally:
                text.detach()

    def write_json(self, record: Mapping[str, Any], sink: IO[str]) -> None:
        """One line of strict JSON."""
        ascii_only = self.path is None and not _is_utf8(sink)
        sink.write(json.dumps(record, allow_nan=False, ensure_ascii=ascii_only) + "\n")

    def write_picture(self, result: "Attribution | Comparison", display: ScaleOptions) -> None:
        """The result as html, svg or png. A page shows every granularity; normalization and granularity are for figures."""
        if self.format == "html":
            self.write_page(result)
            return
        from noiser.views.figure.figure import figure

        format_: Any = self.format
        self.write(figure(result, format_, normalization=display.normalize, by=display.granularity))

    def write_page(self, result: "Attribution | Comparison | Interactions") -> None:
        """The result as an HTML page."""
        from noiser.views.viewer.data import view

        self.write(page([view(result)]))


class _TextFile(io.TextIOWrapper):
    @property
    def mode(self) -> str:
        """`typing.IO` has it, `io.TextIOWrapper` does not."""
        return "w"


def choose_format(format_: str | None, path: Path | None, default: str, formats: tuple[str, ...]) -> str:
    """The format of --format, else the one that the ending of the file names, else the default.

    Raises OptionError for pdf, and for png without a file.
    """
    suffix = path.suffix[1:].lower() if path is not None else ""
    chosen = format_ or (suffix if suffix in PICTURES & set(formats) else default)
    if format_ is None and path is not None and suffix == "pdf":
        raise OptionError(
            f"{path}: the command line writes figures as .svg or .png. In Python, result.save_figure({path.name!r}) writes pdf"
        )
    if chosen == "png" and path is None:
        raise OptionError("--format png is not text: give a file with --out heatmap.png")
    return chosen


def named_view(result: "Attribution | Comparison | Interactions", name: str) -> "View":
    """The data of a page about the result; its title begins with the name."""
    from noiser.views.viewer.data import view

    data = view(result)
    return data | {"title": f"{name}: {data['title']}"}


def page(views: Sequence["View"]) -> bytes:
    """One HTML page for all views."""
    from noiser.views.viewer.page import page

    title = views[0]["title"] if len(views) == 1 else f"noiser: {len(views)} prompts"
    return page(views, title).encode()


def console(sink: IO[str], min_width: int = 0) -> "Console":
    """A rich console on the sink. On a terminal it has the terminal's width, else 100 columns or `min_width` if that is more."""
    from rich.console import Console

    return Console(file=sink, width=None if sink.isatty() else max(100, min_width), highlight=False, legacy_windows=False)


def _is_utf8(sink: IO[str]) -> bool:
    return (getattr(sink, "encoding", None) or "").lower().replace("-", "") == "utf8"
