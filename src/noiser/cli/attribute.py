"""`noiser attribute`: which words of a prompt caused the prediction?"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.budget import check_budget, fit_samples, forecast, is_auto, say_recommended
from noiser.cli.dry_run import check_format, dry_run, dry_run_levels
from noiser.cli.inputs import SourceOptions, TargetOptions, existing_file, parse_method, read_file_rows, read_messages
from noiser.cli.options import (
    METHOD,
    OUTPUT,
    WHAT,
    FieldNames,
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
from noiser.errors import NoiserError, OptionError, PromptError

if TYPE_CHECKING:
    from noiser.attribution.explain import Failure
    from noiser.cli.progress import PromptProgress
    from noiser.data import FileRows, Row
    from noiser.lm.model import LanguageModel
    from noiser.lm.target import Question
    from noiser.registry import MethodSpec
    from noiser.results.attribution import Attribution
    from noiser.text.prompt import Prompt as TokenizedPrompt

FORMATS = ("heatmap", "json", "jsonl", "html", "svg", "png")
FORMAT_HELP = f"{', '.join(FORMATS)}. (default: as --out ends; else heatmap, with --file jsonl)"


@dataclass(frozen=True)
class Place:
    """Where a prompt stands in its file."""

    unit: str
    """`line` or `row`."""
    number: int
    id: str | None
    """The row's own name, if the file gives it one."""

    @property
    def name(self) -> str:
        """`line 3`, `line 3, q17`."""
        return f"{self.unit} {self.number}" + (f", {self.id}" if self.id is not None else "")

    def to_dict(self) -> dict[str, Any]:
        """What a record says about its place."""
        return {self.unit: self.number, **({"id": self.id} if self.id is not None else {})}


@dataclass(frozen=True, kw_only=True)
class AttributeArgs:
    """What `noiser attribute` explains, and how. Everything is checked before weights are read."""

    prompt: str | list[Any] | None
    """A text or a chat; None if the prompts come from a file."""
    file: str | None
    fields: str | None
    """The value of --fields."""
    named: dict[str, Any]
    """The spans or documents of the prompt."""
    method: "MethodSpec"
    question: "Question"
    display: DisplayOptions
    output: Output
    dry_run: bool = False
    budget: str | None = None


@expand_options
def attribute(
    prompt: Prompt = None,
    *,
    target: TargetOptions,
    messages: Messages = None,
    sources: SourceOptions,
    file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Explain many prompts: text, one on each line, or JSON lines, JSON, CSV, TSV, Parquet; - is standard input.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    fields: FieldNames = None,
    method: Method = "noiser",
    settings: Settings = None,
    seed: MethodSeed = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="N|TIME",
            help="As many samples as this many token-forwards (50000) or this time (30s, 2m) pays for, with their standard errors; with "
            "unit=auto scores as fine as it pays for.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    model: ModelOptions,
    format_: Annotated[str | None, format_option(FORMAT_HELP)] = None,
    out: Out = None,
    display: DisplayOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count and time what it would cost, and explain nothing.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Which words of a prompt made the model predict the next word?"""
    given = (prompt, messages, file)
    if sum(source is not None for source in given) != 1:
        raise OptionError(f"give either a prompt, --messages or --file{', not both' if any(given) else ''}")
    named = sources.read()
    if named and file is not None:
        raise OptionError(f"--{next(iter(named))} is for one prompt, not for --file")
    if file not in (None, "-"):
        existing_file(str(file))
    if fields is not None and file is None:
        raise OptionError("--fields are for --file")
    display.check()
    arguments = AttributeArgs(
        prompt=prompt if messages is None else read_messages(messages),
        file=file,
        fields=fields,
        method=parse_method(method, settings or [], seed),
        named=named,
        question=target.question(),
        display=display,
        output=_output(format_, out, many=file is not None),
        dry_run=dry_run,
        budget=budget,
    )
    if budget is not None:
        check_budget(budget, arguments.method, many=file is not None)
    if dry_run:
        check_format(arguments.output)
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

    found = None if arguments.file is None else read_file_rows(arguments.file, arguments.fields)
    with loaded_model(model, 1 if found is None else len(found.rows)) as (lm, progress):
        if found is not None and arguments.dry_run:
            return dry_run(lm, _tasks(lm, found, arguments.question), arguments.method, arguments.output)
        if found is not None:
            return _explain_rows(lm, found, arguments, progress)
        _explain_prompt(lm, arguments, progress)
        return 0


def _explain_prompt(lm: "LanguageModel", arguments: AttributeArgs, progress: "PromptProgress") -> None:
    """Explain one prompt, or say what that would cost. The output is opened after the last possible error, so that an error leaves an old
    file alone."""
    import noiser.attribution.attribute as attribution

    output, budget, question = arguments.output, arguments.budget, arguments.question
    prompt = lm.prompt(arguments.prompt or "", **arguments.named) if arguments.named else arguments.prompt or ""
    method = fit_samples(lm, prompt, arguments.method, budget, question)
    if arguments.dry_run:
        dry_run_levels(lm, prompt, question, method, output) if is_auto(method) else dry_run(lm, [(prompt, question)], method, output)
        return
    forecast(lm, prompt, method, budget, question, progress)
    result = attribution.attribute(lm, prompt, method, question, budget=budget if is_auto(method) else None)
    arguments.display.check_result(result)
    result = _add_curves(lm, result, arguments)
    if output.format in PICTURES:
        output.write_picture(result, arguments.display)
        return
    with output.open() as sink:
        _write(result, None, arguments, sink)
    if output.format == "heatmap":
        say_recommended(lm, result, prompt, method, question, progress)


def _explain_rows(lm: "LanguageModel", found: "FileRows", arguments: AttributeArgs, progress: "PromptProgress") -> int:
    """Explain each row. Every row ends as a result or an error, and the last line of standard error counts both."""
    targets = sum(_has_target(row) for row in found.rows)
    if targets and not _asks_nothing(arguments.question):
        progress.say(f"the options say what is explained: {targets:,} targets of the file are not used", keep=True)
    results = _results(lm, found, arguments, progress)
    failed = _write_page(results, arguments, progress) if arguments.output.format == "html" else _write_lines(results, arguments)
    progress.say(f"{len(found.rows)} prompts: {len(found.rows) - failed} explained, {failed} failed", keep=True)
    return 1 if failed else 0


def _results(
    lm: "LanguageModel", found: "FileRows", arguments: AttributeArgs, progress: "PromptProgress"
) -> Iterator[tuple[Place, "Attribution | Failure"]]:
    """The place of each row, and its result or failure."""
    from noiser.attribution.explain import Failure, attribute_each
    from noiser.lm.target import check_token_ids

    check_token_ids(lm.tokens, arguments.question)
    tasks = _tasks(lm, found, arguments.question)
    results = attribute_each(lm, [task for task in tasks if isinstance(task, tuple)], arguments.method, "return")
    for row, number, text, task in zip(found.rows, found.numbers, found.texts, tasks, strict=True):
        result = next(results) if isinstance(task, tuple) else Failure(number, text, task)
        if isinstance(result, Failure):
            result = Failure(number, text, result.error)
        result = _checked(result, arguments.display)
        place = Place(found.unit, number, row.id if row.id.rstrip("'") != str(number) else None)
        yield place, result if isinstance(result, Failure) else _add_curves(lm, result, arguments)
        progress.advance()


def _tasks(lm: "LanguageModel", found: "FileRows", question: "Question") -> "list[tuple[TokenizedPrompt, Question] | NoiserError]":
    return [_task(lm, row, question) for row in found.rows]


def _task(lm: "LanguageModel", row: "Row", question: "Question") -> "tuple[TokenizedPrompt, Question] | NoiserError":
    """The row's prompt and what is explained about it: what the options say, else the row's target. The error if it cannot be read."""
    from noiser.evaluation.answer import answer_ids
    from noiser.lm.target import check_token_ids

    if row.error:
        return PromptError(row.error)
    try:
        prompt = lm.prompt(row.prompt)
        if _has_target(row) and _asks_nothing(question):
            question = replace(question, target=answer_ids(lm, prompt, row.target_ids or row.target))
            check_token_ids(lm.tokens, question)
    except NoiserError as error:
        return error
    return prompt, question


def _has_target(row: "Row") -> bool:
    return bool(row.target_ids or (row.target or "").strip())


def _asks_nothing(question: "Question") -> bool:
    """Whether the options leave it to the file what is explained."""
    return question.target is None and question.continuation is None and question.generate is None


def _checked(result: "Attribution | Failure", display: DisplayOptions) -> "Attribution | Failure":
    """The result, or a Failure if it cannot be normalized or summed as the user wants. So the other lines are not lost."""
    from noiser.attribution.explain import Failure

    if isinstance(result, Failure):
        return result
    try:
        display.check_result(result)
    except OptionError as error:
        return Failure(0, result.prompt.text, error)
    return result


def _add_curves(lm: "LanguageModel", result: "Attribution", arguments: AttributeArgs) -> "Attribution":
    from noiser.attribution.curves import with_curves

    wanted = arguments.display.with_curves(arguments.output.format)
    if result.options.get("unit") == "auto" and arguments.display.curves is None:
        wanted = False  # a page has them by default, and they would pass the budget
    return with_curves(lm, result) if wanted else result


def _write_lines(results: Iterable[tuple[Place, "Attribution | Failure"]], arguments: AttributeArgs) -> int:
    """Write each result once it is ready. Returns the number of failures."""
    failed = 0
    with arguments.output.open() as sink:
        for place, result in results:
            failed += _error(result) is not None
            _write(result, place, arguments, sink)
            sink.flush()
    return failed


def _write_page(results: Iterable[tuple[Place, "Attribution | Failure"]], arguments: AttributeArgs, progress: "PromptProgress") -> int:
    """Write one page for all rows, and the failures to standard error. Returns the number of failures.

    If every row failed, an old file is left alone.
    """
    from noiser.attribution.explain import Failure
    from noiser.views.labels import visible

    views, failed = [], 0
    for place, result in results:
        if isinstance(result, Failure):
            failed += 1
            progress.say(f"{visible(place.name)}: {visible(str(result.error))}", keep=True)
        else:
            views.append(named_view(result, visible(place.name)))
    if views:
        arguments.output.write(page(views))
    return failed


def _error(result: "Attribution | Failure") -> Exception | None:
    from noiser.attribution.explain import Failure

    return result.error if isinstance(result, Failure) else None


def _write(result: "Attribution | Failure", place: Place | None, arguments: AttributeArgs, sink: IO[str]) -> None:
    from noiser.attribution.explain import Failure

    if arguments.output.format == "heatmap":
        _write_heatmap(result, place, arguments.display, sink)
        return
    where = {} if place is None else place.to_dict()
    if isinstance(result, Failure):
        error = {"class": type(result.error).__name__, "message": str(result.error)}
        arguments.output.write_json({"schema": 1, **where, "prompt": {"text": result.prompt}, "error": error}, sink)
    else:
        arguments.output.write_json({**result.to_dict(), **where, **arguments.display.extra_json(result)}, sink)


def _write_heatmap(result: "Attribution | Failure", place: Place | None, display: DisplayOptions, sink: IO[str]) -> None:
    from rich.text import Text

    from noiser.attribution.explain import Failure
    from noiser.views.labels import visible
    from noiser.views.terminal.attribution import heatmap

    screen = console(sink)
    if place is not None:
        screen.rule(Text(visible(place.name)), style="dim")
    if isinstance(result, Failure):
        screen.print(Text(f"Error: {visible(str(result.error))}", style="red"))
    else:
        screen.print(heatmap(result, display.normalize, display.granularity))
