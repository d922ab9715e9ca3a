"""What commands read: names, options of methods and metrics, prompts and targets. All of it is checked before weights are read."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.catalogue import check
from noiser.cli.options import ADVANCED, WHAT
from noiser.errors import OptionError

if TYPE_CHECKING:
    from noiser.data import FileRows
    from noiser.lm.target import Question
    from noiser.registry import MethodSpec

TokenIds = str | int | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """What is explained about a prompt."""

    target: Annotated[
        str | None,
        typer.Option(
            help="Explain this text instead of the model's own next token, e.g. ' Paris' with its leading space. Token ids: id:7042.",
            rich_help_panel=WHAT,
        ),
    ] = None
    foil: Annotated[str | None, typer.Option(help="Explain why the target and not this text.", rich_help_panel=WHAT)] = None
    continuation: Annotated[
        str | None,
        typer.Option(help="Explain each token of this text, which follows the prompt.", rich_help_panel=WHAT),
    ] = None
    generate: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Explain N tokens generated greedily by the model.", rich_help_panel=WHAT)
    ] = None
    span: Annotated[
        str | None,
        typer.Option(
            metavar="FROM:TO", help="Explain these tokens of the continuation as a whole, counted from 0.", rich_help_panel=ADVANCED
        ),
    ] = None
    explain: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help="Explain these exact words of the continuation as a whole.", rich_help_panel=ADVANCED),
    ] = None
    quantity: Annotated[
        str | None,
        typer.Option(
            help="The explained quantity: prob, log_prob, mean_prob; with --foil prob or log_odds; hellinger or jsd: the whole "
            "distribution. (default: prob)",
            rich_help_panel=ADVANCED,
        ),
    ] = None

    def question(self) -> "Question":
        """The options as one object. Raises OptionError if they make no sense, alone or together."""
        from noiser.lm.target import Question

        target, foil, continuation = (read_words(f"--{name}", getattr(self, name)) for name in ("target", "foil", "continuation"))
        return Question(target, foil, continuation, self.generate, _read_span(self.span), self.quantity, self.explain)


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The named parts of a prompt."""

    spans: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='Names for parts of the prompt, as JSON: [{"name": "doc-2", "start": 120, "stop": 640}], in characters.',
            rich_help_panel=ADVANCED,
        ),
    ] = None
    documents: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='Documents that stand before the prompt, as JSON lines or a list: {"title": "...", "text": "..."}. Each is a named span.',
            rich_help_panel=ADVANCED,
        ),
    ] = None

    def read(self) -> dict[str, Any]:
        """What of the two is given, as `LanguageModel.prompt` takes it. Raises OptionError."""
        given = {"spans": self.spans, "documents": self.documents}
        if all(given.values()):
            raise OptionError("give --spans or --documents, not both: each document is a span")
        return {name: _read_list(f"--{name}", file) for name, file in given.items() if file is not None}


def _read_list(option: str, file: str) -> list[Any]:
    """A JSON list, or one JSON object on each line."""
    from noiser.data.content import read_content

    try:
        items = read_content(read_input(file), file).items
    except OptionError as error:
        raise OptionError(f"{option} wants JSON, a list or an object on each line: {error}") from error
    wrong = next((item for item in items if item.error), None)
    if wrong is not None:
        raise OptionError(f"{option}: {file}, number {wrong.number}: {wrong.error}")
    values = [item.value for item in items]
    return values[0] if len(values) == 1 and isinstance(values[0], list) else values


def read_words(option: str, value: str | None) -> TokenIds | None:
    """A text as it is; `id:7042` as a token id; `id:7,8` as several."""
    if value is None or not value.startswith("id:"):
        return value
    if not re.fullmatch(r"[0-9]{1,18}(,[0-9]{1,18})*", value[3:], re.ASCII):
        raise OptionError(f"{option} id:N wants a token id, or several as id:N,M; got {value!r}")
    ids = tuple(map(int, value[3:].split(",")))
    return ids[0] if len(ids) == 1 else ids


def _read_span(span: str | None) -> tuple[int, int] | None:
    if span is None:
        return None
    match = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", span, re.ASCII)
    if not match:
        raise OptionError(f"--span wants FROM:TO, tokens of the continuation counted from 0; got {span!r}")
    return int(match[1]), int(match[2])


def split_commas(text: str) -> list[str]:
    """The parts of a list with commas, without empty ones and outer spaces."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_names(option: str, text: str) -> list[str]:
    """Names separated by commas. Raises OptionError if one occurs twice."""
    names = split_commas(text)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise OptionError(f"{option} wants each {option.strip('-').removesuffix('s')} once; {', '.join(repeated)} came twice")
    return names


def read_judges(text: str | None) -> list[str]:
    """Judges separated by commas; an empty list for None. Raises OptionError if the text holds no name."""
    names = read_names("--judge", text or "")
    if text is not None and not names:
        raise OptionError(f"--judge wants at least one judge, e.g. local; got {text!r}")
    return names


def read_settings(settings: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs. The last value of a name counts."""
    pairs = [setting.partition("=") for setting in settings]
    for setting, (name, separator, _) in zip(settings, pairs, strict=True):
        if not separator or not name:
            raise OptionError(f"--set wants NAME=VALUE; got {setting!r}")
    return {name: value for name, _, value in pairs}


def assign_settings(settings: Sequence[str], options: Mapping[str, Mapping[str, Any]], source: str) -> dict[str, dict[str, str]]:
    """What --set says for each label of `options`, a mapping from labels to all options that they have.

    NAME.OPTION=VALUE is for the label NAME. OPTION=VALUE is for all labels that have the option, except those that set it
    themselves (`noiser:steps=5`).

    Raises OptionError for an unknown label or option; the error names `source`, the command line options with the labels.
    """
    from noiser.registry import read_label

    assigned: dict[str, dict[str, str]] = {label: {} for label in options}
    for key, value in read_settings(settings).items():
        label, dot, option = key.rpartition(".")
        if dot and label not in options:
            raise OptionError(f"--set {key}: {label!r} is not among {source}")
        takers = [label] if dot else [each for each in options if option in options[each] and option not in read_label(each)[1]]
        if not takers:
            raise OptionError(f"--set {key}: none of {', '.join(options)} has an option {option!r}")
        for taker in takers:
            assigned[taker][option] = value
    return assigned


def parse_method(label: str, settings: Sequence[str], seed: int | None) -> "MethodSpec":
    """The method of `--method`, with `--set` and `--seed`. Raises OptionError for what does not exist or fit."""
    options: dict[str, Any] = dict(read_settings(settings))
    check("methods", [label], options)
    import noiser.methods

    if seed is not None:
        if "seed" not in noiser.methods.parse(label).options:
            raise OptionError(f"{label} draws nothing at random, so it has no seed")
        options["seed"] = seed
    return noiser.methods.parse(label, options)


def method_settings(methods: str, settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The labels of `--methods`, and what `--set` says for each. Raises OptionError for what does not exist."""
    labels = read_names("--methods", methods)
    check("methods", labels)
    import noiser.methods

    options = {label: noiser.methods.parse(label).options for label in labels}
    return {**assign_settings(settings, options, f"--methods {methods}")}


def read_file_rows(file: str, fields: str | None = None) -> "FileRows":
    """The rows of a file; `-` is standard input. `fields` is the value of --fields.

    How the file was read, and the first reasons why rows cannot be read, go to standard error. Raises OptionError for a file that
    does not exist or is not read.
    """
    from noiser.data import parse_fields, read_file, unreadable_lines

    name = "standard input" if file == "-" else Path(file).name
    try:
        found = read_file(read_input(file), file, parse_fields(fields) if fields is not None else None)
    except OptionError as error:
        raise OptionError(f"{name}: {error}") from error
    say_notes(f"{name}: {remark}" for remark in found.remarks)
    say_notes(unreadable_lines(name, [row.error for row in found.rows if row.error], len(found.rows)))
    return found


def read_input(file: str) -> bytes:
    """The bytes of a file or of standard input (`-`). Raises OptionError if there is no such file."""
    return sys.stdin.buffer.read() if file == "-" else existing_file(file).read_bytes()


def say_notes(notes: Iterable[str]) -> None:
    """Write lines to standard error, with control characters made visible."""
    from noiser.views.labels import visible

    for note in notes:
        sys.stderr.write(f"{visible(note)}\n")


def read_messages(file: str) -> list[Any]:
    """A chat from a file or standard input: a JSON list of {"role": ..., "content": ...}, or one object that has it as `messages`."""
    from noiser.data.content import read_content

    try:
        items = read_content(read_input(file), file).items
    except OptionError as error:
        raise OptionError(f"--messages wants a JSON list of role and content: {error}") from error
    messages = items[0].value if len(items) == 1 else None
    if isinstance(messages, Mapping):
        messages = messages.get("messages", (messages.get("body") or {}).get("messages"))
    if not isinstance(messages, list) or not messages or not all(isinstance(message, Mapping) for message in messages):
        raise OptionError('--messages wants a JSON list: [{"role": "user", "content": "..."}, ...]')
    return messages


def existing_file(path: str) -> Path:
    """The path. Raises OptionError if there is no such file."""
    if not Path(path).exists() or Path(path).is_dir():
        raise OptionError(f"there is no file {path}")
    return Path(path)
