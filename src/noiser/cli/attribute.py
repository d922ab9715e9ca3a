"""`noiser attribute`: which words of a prompt caused the prediction?"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.inputs import TargetOptions, decode_line, existing_file, parse_method, read_lines, read_messages
from noiser.cli.options import (
    WHAT,
    Messages,
    Method,
    MethodSeed,
    ModelOptions,
    Out,
    Prompt,
    Settings,
    expand_options,
    format_option,
)
from noiser.cli.outputs import PICTURES, DisplayOptions, Output, choose_format, console, named_view, page
from noiser.errors import OptionError

if TYPE_CHECKING:
    from noiser.attribution.attribute import Failure
    from noiser.cli.progress import PromptProgress
    from noiser.lm.model import LanguageModel
    from noiser.lm.target import Question
    from noiser.registry import MethodSpec
    from noiser.results.attribution import Attribution

FORMATS = ("heatmap", "json", "jsonl", "html", "svg", "png")
FORMAT_HELP = f"{', '.join(FORMATS)}. (default: as --out ends; else heatmap, with --file jsonl)"

Line = tuple[int, bytes]
"""The number of a line, and its bytes."""


@dataclass(frozen=True, kw_only=True)
class AttributeArgs:
    """What `noiser attribute` explains, and how. Everything is checked before weights are read."""

    prompt: str | list[Any] | None
    """A text or a chat; None if the prompts come from a file."""
    file: str | None
    method: "MethodSpec"
    question: "Question"
    display: DisplayOptions
    output: Output


@expand_options
def attribute(
    prompt: Prompt = None,
    *,
    target: TargetOptions,
    messages: Messages = None,
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Explain many prompts: one on each line; - is standard input.", rich_help_panel=WHAT)
    ] = None,
    method: Method = "noiser",
    settings: Settings = None,
    seed: MethodSeed = None,
    model: ModelOptions,
    format_: Annotated[str | None, format_option(FORMAT_HELP)] = None,
    out: Out = None,
    display: DisplayOptions,
) -> None:
    """Which words of a prompt made the model predict the next word?"""
    sources = (prompt, messages, file)
    if sum(source is not None for source in sources) != 1:
        raise OptionError(f"give either a prompt, --messages or --file{', not both' if any(sources) else ''}")
    if file not in (None, "-"):
        existing_file(str(file))
    display.check()
    arguments = AttributeArgs(
        prompt=prompt if messages is None else read_messages(messages),
        file=file,
        method=parse_method(method, settings or [], seed),
        question=target.question(),
        display=display,
        output=_output(format_, out, many=file is not None),
    )
    model.check_chat(arguments.prompt)
    raise typer.Exit(_run(model, arguments))


def _output(format_: str | None, path: Path | None, *, many: bool) -> Output:
    """Raises OptionError for a format that does not exist or fit, or a file that cannot be written."""
    output = Output.checked(choose_format(format_, path, "jsonl" if many else "heatmap", FORMATS), path, FORMATS)
    if output.format == "json" and many:
        raise OptionError("--format json is one object for one prompt; use jsonl with --file")
    if output.format in ("svg", "png") and many:
        raise OptionError(f"--format {output.format} is one figure of one prompt; use html with --file, one page for all prompts")
    return output


def _run(model: ModelOptions, arguments: AttributeArgs) -> int:
    """Explain and write. The exit status is 1 if a prompt failed; the other prompts are explained first."""
    from noiser.cli.progress import loaded_model

    lines = None if arguments.file is None else read_lines(arguments.file)
    with loaded_model(model, 1 if lines is None else len(lines)) as (lm, progress):
        if lines is not None:
            return _explain_lines(lm, lines, arguments, progress)
        _explain_prompt(lm, arguments)
        return 0


def _explain_prompt(lm: "LanguageModel", arguments: AttributeArgs) -> None:
    """Explain one prompt. The output is opened after the last possible error, so that an error leaves an old file alone."""
    import noiser.attribution.attribute as attribution

    output = arguments.output
    result = attribution.attribute(lm, arguments.prompt or "", arguments.method, arguments.question)
    arguments.display.check_result(result)
    result = _add_curves(lm, result, arguments)
    if output.format in PICTURES:
        output.write_picture(result, arguments.display)
        return
    with output.open() as sink:
        _write(result, None, arguments, sink)


def _explain_lines(lm: "LanguageModel", lines: list[Line], arguments: AttributeArgs, progress: "PromptProgress") -> int:
    """Explain each line. Every line ends as a result or an error, and the last line of standard error counts both."""
    results = _results(lm, lines, arguments, progress)
    failed = _write_page(results, arguments, progress) if arguments.output.format == "html" else _write_lines(results, arguments)
    progress.say(f"{len(lines)} prompts: {len(lines) - failed} explained, {failed} failed", keep=True)
    return 1 if failed else 0


def _results(
    lm: "LanguageModel", lines: list[Line], arguments: AttributeArgs, progress: "PromptProgress"
) -> Iterator[tuple[int, "Attribution | Failure"]]:
    """The number of each line, and its result or failure."""
    from noiser.attribution.attribute import Failure, attribute_many

    texts = [decode_line(line) for _, line in lines]
    readable = [text for text in texts if isinstance(text, str)]
    results = attribute_many(lm, readable, arguments.method, arguments.question, errors="return")
    for (number, line), text in zip(lines, texts, strict=True):
        result = next(results) if isinstance(text, str) else Failure(number, line.decode(errors="replace"), text)
        result = _checked(result, arguments.display)
        yield number, result if isinstance(result, Failure) else _add_curves(lm, result, arguments)
        progress.advance()


def _checked(result: "Attribution | Failure", display: DisplayOptions) -> "Attribution | Failure":
    """The result, or a Failure if it cannot be normalized or summed as the user wants. So the other lines are not lost."""
    from noiser.attribution.attribute import Failure

    if isinstance(result, Failure):
        return result
    try:
        display.check_result(result)
    except OptionError as error:
        return Failure(0, result.prompt.text, error)
    return result


def _add_curves(lm: "LanguageModel", result: "Attribution", arguments: AttributeArgs) -> "Attribution":
    from noiser.attribution.curves import with_curves

    return with_curves(lm, result) if arguments.display.with_curves(arguments.output.format) else result


def _write_lines(results: Iterable[tuple[int, "Attribution | Failure"]], arguments: AttributeArgs) -> int:
    """Write each result once it is ready. Returns the number of failures."""
    failed = 0
    with arguments.output.open() as sink:
        for number, result in results:
            failed += _error(result) is not None
            _write(result, number, arguments, sink)
            sink.flush()
    return failed


def _write_page(results: Iterable[tuple[int, "Attribution | Failure"]], arguments: AttributeArgs, progress: "PromptProgress") -> int:
    """Write one page for all lines, and the failures to standard error. Returns the number of failures.

    If every line failed, an old file is left alone.
    """
    from noiser.attribution.attribute import Failure
    from noiser.views.escape import visible

    views, failed = [], 0
    for number, result in results:
        if isinstance(result, Failure):
            failed += 1
            progress.say(f"line {number}: {visible(str(result.error))}", keep=True)
        else:
            views.append(named_view(result, f"line {number}"))
    if views:
        arguments.output.write(page(views))
    return failed


def _error(result: "Attribution | Failure") -> Exception | None:
    from noiser.attribution.attribute import Failure

    return result.error if isinstance(result, Failure) else None


def _write(result: "Attribution | Failure", line: int | None, arguments: AttributeArgs, sink: IO[str]) -> None:
    from noiser.attribution.attribute import Failure

    if arguments.output.format == "heatmap":
        _write_heatmap(result, line, arguments.display, sink)
        return
    number = {} if line is None else {"line": line}
    if isinstance(result, Failure):
        error = {"class": type(result.error).__name__, "message": str(result.error)}
        arguments.output.write_json({"schema": 1, **number, "prompt": {"text": result.prompt}, "error": error}, sink)
    else:
        arguments.output.write_json({**result.to_dict(), **number, **arguments.display.extra_json(result)}, sink)


def _write_heatmap(result: "Attribution | Failure", line: int | None, display: DisplayOptions, sink: IO[str]) -> None:
    from rich.text import Text

    from noiser.attribution.attribute import Failure
    from noiser.views.escape import visible
    from noiser.views.terminal.attribution import heatmap

    screen = console(sink)
    if line is not None:
        screen.rule(f"line {line}", style="dim")
    if isinstance(result, Failure):
        screen.print(Text(f"Error: {visible(str(result.error))}", style="red"))
    else:
        screen.print(heatmap(result, display.normalize, display.granularity))
