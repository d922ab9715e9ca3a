"""`noiser attribute`: prompts in, heat maps or JSON out; everything else goes to standard error."""

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import noiser.methods
from noiser.attribution import Attribution, Failure, attribute_many
from noiser.commands.progress import progress
from noiser.errors import NoiserError, OptionError, PromptError
from noiser.lm.load import load
from noiser.normalization import NORMALIZATIONS

FORMATS = ("heatmap", "json", "jsonl")


@dataclass(frozen=True)
class Wanted:
    """What to explain and how; everything in it is checked before any weights are read."""

    text: str | None
    file: str | None
    method: str
    options: Mapping[str, Any]
    target: str | int | None
    normalize: str

    @classmethod
    def checked(
        cls, text: str | None, file: str | None, method: str, settings: Sequence[str], target: str | None, seed: int | None, normalize: str
    ) -> "Wanted":
        """Raises OptionError for a method, option, value, normalisation or file that does not exist."""
        if (text is None) == (file is None):
            raise OptionError("give either a prompt or --file" if text is None else "give either a prompt or --file, not both")
        if file not in (None, "-") and (not Path(str(file)).exists() or Path(str(file)).is_dir()):
            raise OptionError(f"there is no file {file}")
        if normalize not in NORMALIZATIONS:
            raise OptionError(f"--normalize must be one of {', '.join(NORMALIZATIONS)}; got {normalize!r}")
        given: dict[str, Any] = dict(_pair(setting) for setting in settings)
        found = noiser.methods.find(method)
        if seed is not None:
            if "seed" not in found.options:
                raise OptionError(f"{method} draws nothing at random, so it has no seed")
            given["seed"] = seed
        return cls(text, file, method, found.resolve(given), _target(target), normalize)


@dataclass(frozen=True)
class Output:
    """In which form and where to."""

    form: str
    path: Path | None

    @classmethod
    def checked(cls, form: str | None, path: Path | None, *, many: bool) -> "Output":
        """Raises OptionError for a form that does not exist or fit, or a place that cannot be written."""
        chosen = form or ("jsonl" if many else "heatmap")
        if chosen not in FORMATS:
            raise OptionError(f"--format must be one of {', '.join(FORMATS)}; got {chosen!r}")
        if chosen == "json" and many:
            raise OptionError("--format json is one object for one prompt; with --file use jsonl")
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise OptionError(f"cannot write to {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}")
        return cls(chosen, path)

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


def run(model: str, load_options: Mapping[str, Any], wanted: Wanted, output: Output) -> int:
    """Explain and write; the exit status is 1 if any prompt failed, after all the others were done."""
    lines = None if wanted.file is None else _read_lines(wanted.file)
    with progress() as watch:
        watch.say(f"loading {model}")
        lm = load(model, **load_options)
        watch.follow(lm, len(lines) if lines is not None else 1)
        if lines is None:
            results = attribute_many(lm, [wanted.text or ""], wanted.method, wanted.target, **wanted.options)
            result = next(results)  # before --out is opened, so that an error leaves what was there
            with output.opened() as sink:
                _write(result, None, wanted, output, sink)
            return 0
        return _run_lines(lm, lines, wanted, output, watch)


def _run_lines(lm: Any, lines: list[tuple[int, bytes]], wanted: Wanted, output: Output, watch: Any) -> int:
    """Every line ends as a result or an error, and the last line of standard error counts both."""
    texts = [_decoded(raw) for _, raw in lines]
    readable = [text for text in texts if isinstance(text, str)]
    results = attribute_many(lm, readable, wanted.method, wanted.target, errors="return", **wanted.options)
    failed = 0
    with output.opened() as sink:
        for (number, raw), text in zip(lines, texts, strict=True):
            result = next(results) if isinstance(text, str) else Failure(number, raw.decode(errors="replace"), text)
            result = _normalizable(result, wanted.normalize)
            failed += isinstance(result, Failure)
            _write(result, number, wanted, output, sink)
            sink.flush()
            watch.advance()
    watch.say(f"{len(lines)} prompts: {len(lines) - failed} explained, {failed} failed", keep=True)
    return 1 if failed else 0


def _normalizable(result: Attribution | Failure, how: str) -> Attribution | Failure:
    """The result; a Failure where its scores refuse the normalisation, so that the other lines are not lost."""
    if isinstance(result, Failure):
        return result
    try:
        result.normalized(how)
    except OptionError as error:
        return Failure(0, result.prompt.text, error)
    return result


def _write(result: Attribution | Failure, line: int | None, wanted: Wanted, output: Output, sink: IO[str]) -> None:
    if output.form == "heatmap":
        _write_heatmap(result, line, wanted, sink)
        return
    number = {} if line is None else {"line": line}
    if isinstance(result, Failure):
        error = {"class": type(result.error).__name__, "message": str(result.error)}
        record = {"schema": 1, **number, "prompt": {"text": result.prompt}, "error": error}
    else:
        record = {**result.to_dict(), **number}
        if wanted.normalize != "none":
            record["normalized"] = {"how": wanted.normalize, "scores": result.normalized(wanted.normalize).tolist()}
    sink.write(json.dumps(record, allow_nan=False, ensure_ascii=output.path is None and not _is_utf8(sink)) + "\n")


def _write_heatmap(result: Attribution | Failure, line: int | None, wanted: Wanted, sink: IO[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    from noiser.views.escape import visible
    from noiser.views.terminal import heatmap

    console = Console(file=sink, width=None if sink.isatty() else 100, highlight=False, legacy_windows=False)
    if line is not None:
        console.rule(f"line {line}", style="dim")
    if isinstance(result, Failure):
        console.print(Text(f"Error: {visible(str(result.error))}", style="red"))
    else:
        console.print(heatmap(result, wanted.normalize))


def _pair(setting: str) -> tuple[str, str]:
    name, separator, value = setting.partition("=")
    if not separator or not name:
        raise OptionError(f"--set wants NAME=VALUE; got {setting!r}")
    return name, value


def _target(target: str | None) -> str | int | None:
    if target is None or not target.startswith("id:"):
        return target
    if not target[3:].isascii() or not target[3:].isdecimal():
        raise OptionError(f"--target id:N wants a token id; got {target!r}")
    return int(target[3:])


def _read_lines(file: str) -> list[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1 on. Only a newline ends a line."""
    raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [(number, line.removesuffix(b"\r")) for number, line in enumerate(lines, 1) if line.strip()]


def _decoded(raw: bytes) -> str | NoiserError:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return PromptError(f"the line is not UTF-8: byte 0x{raw[error.start]:02x} at {error.start}")


def _is_utf8(sink: IO[str]) -> bool:
    return (getattr(sink, "encoding", None) or "").lower().replace("-", "") == "utf8"
