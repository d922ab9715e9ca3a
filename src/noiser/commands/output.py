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


def console(sink: IO[str]) -> Any:
    """A rich console on the sink; a fixed width where that is no terminal."""
    from rich.console import Console

    return Console(file=sink, width=None if sink.isatty() else 100, highlight=False, legacy_windows=False)


def _is_utf8(sink: IO[str]) -> bool:
    return (getattr(sink, "encoding", None) or "").lower().replace("-", "") == "utf8"
