"""In which form and where to a command writes."""

import io
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from noiser.errors import OptionError
from noiser.storage import write_whole

PICTURED = {"html", "svg", "png"}
"""Forms that are looked at; a file's ending is enough to ask for one."""


@dataclass(frozen=True)
class Output:
    """A form and a place, both checked."""

    form: str
    path: Path | None

    @classmethod
    def checked(cls, form: str, path: Path | None, forms: tuple[str, ...]) -> "Output":
        """Raises OptionError for a form that does not exist, or a place that cannot be written."""
        if form not in forms:
            raise OptionError(f"--format must be one of {', '.join(forms)}; got {form!r}")
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise OptionError(f"cannot write to {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}")
        return cls(form, path)

    def write(self, content: bytes) -> None:
        """All of it at once: the file is replaced when the new one is whole."""
        if self.path is not None:
            write_whole(self.path, content)
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(content)

    @contextmanager
    def opened(self) -> Iterator[IO[str]]:
        """Standard output, or the file."""
        if self.path is None:
            if isinstance(sys.stdout, io.TextIOWrapper) and not _is_utf8(sys.stdout):
                sys.stdout.reconfigure(errors="backslashreplace")
            yield sys.stdout
        else:
            with self.path.open("w", encoding="utf-8") as handle:
                yield handle

    def write_json(self, record: Mapping[str, Any], sink: IO[str]) -> None:
        """One line of strict JSON."""
        escaped = self.path is None and not _is_utf8(sink)
        sink.write(json.dumps(record, allow_nan=False, ensure_ascii=escaped) + "\n")


def chosen_form(form: str | None, path: Path | None, default: str, forms: tuple[str, ...]) -> str:
    """What was asked for; else the form that the file's ending says; else the default. A picture of bytes needs a file."""
    found = form or (path.suffix[1:].lower() if path is not None and path.suffix[1:].lower() in PICTURED & set(forms) else default)
    if form is None and path is not None and path.suffix.lower() == ".pdf":
        raise OptionError(f"{path}: a figure is written as .svg or .png here; in Python result.save_figure({path.name!r}) makes a pdf")
    if found == "png" and path is None:
        raise OptionError("--format png is no text: say where to with --out heatmap.png")
    return found


def console(sink: IO[str]) -> Any:
    """A rich console on the sink; a fixed width where that is no terminal."""
    from rich.console import Console

    return Console(file=sink, width=None if sink.isatty() else 100, highlight=False, legacy_windows=False)


def _is_utf8(sink: IO[str]) -> bool:
    return (getattr(sink, "encoding", None) or "").lower().replace("-", "") == "utf8"
