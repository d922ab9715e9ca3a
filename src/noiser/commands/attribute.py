"""`noiser attribute`: prompts in, heat maps or JSON out; everything else goes to standard error."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import noiser.methods
from noiser.attribution.attribute import Attribution, Failure, attribute_many
from noiser.attribution.curves import with_curves
from noiser.commands.output import PICTURED, Output, chosen_form, console
from noiser.commands.pictures import drawn, named, pages
from noiser.commands.progress import progress
from noiser.commands.wanted import Asked, check_display, decoded, existing, read_lines, read_messages, read_settings
from noiser.errors import OptionError
from noiser.lm.load import load
from noiser.lm.target import Question
from noiser.views.escape import visible

FORMATS = ("heatmap", "json", "jsonl", "html", "svg", "png")

Explained = Attribution | Failure


@dataclass(frozen=True)
class Wanted:
    """What to explain and how; everything in it is checked before any weights are read."""

    prompt: str | list[Any] | None
    """Text or a chat; None where the prompts come from a file."""
    file: str | None
    method: str
    options: Mapping[str, Any]
    question: Question
    normalize: str
    by: str | None
    curves: bool | None
    """Whether removal curves are made; None: where a page shows them."""

    @classmethod
    def checked(
        cls,
        source: tuple[str | None, str | None, str | None],
        method: str,
        settings: Sequence[str],
        asked: Asked,
        seed: int | None,
        display: tuple[str, str | None],
        curves: bool | None = None,
    ) -> "Wanted":
        """From text, --messages and --file, of which there is one. Raises OptionError for what does not exist or fit."""
        text, messages, file = source
        if sum(each is not None for each in source) != 1:
            raise OptionError(f"give either a prompt, --messages or --file{', not both' if any(source) else ''}")
        if file not in (None, "-"):
            existing(str(file))
        check_display(*display)
        given_options: dict[str, Any] = dict(read_settings(settings))
        found = noiser.methods.find(method)
        if seed is not None:
            if "seed" not in found.options:
                raise OptionError(f"{method} draws nothing at random, so it has no seed")
            given_options["seed"] = seed
        prompt = text if messages is None else read_messages(messages)
        return cls(prompt, file, method, found.resolve(given_options), asked.question(), *display, curves)


def output(form: str | None, path: Any, *, many: bool) -> Output:
    """Raises OptionError for a form that does not exist or fit, or a place that cannot be written."""
    checked = Output.checked(chosen_form(form, path, "jsonl" if many else "heatmap", FORMATS), path, FORMATS)
    if checked.form == "json" and many:
        raise OptionError("--format json is one object for one prompt; with --file use jsonl")
    if checked.form in ("svg", "png") and many:
        raise OptionError(f"--format {checked.form} is one figure of one prompt; with --file use html, one page for all of them")
    return checked


def run(model: str, load_options: Mapping[str, Any], wanted: Wanted, output: Output) -> int:
    """Explain and write; the exit status is 1 if any prompt failed, after all the others were done."""
    lines = None if wanted.file is None else read_lines(wanted.file)
    with progress() as watch:
        watch.say(f"loading {model}")
        lm = load(model, **load_options)
        watch.follow(lm, len(lines) if lines is not None else 1)
        if lines is None:
            results = attribute_many(lm, [wanted.prompt or ""], wanted.method, **vars(wanted.question), **wanted.options)
            record = _displayable(next(results), wanted)  # before --out is opened, so that an error leaves what was there
            if isinstance(record, Failure):
                raise record.error
            record = _traced(lm, record, wanted, output)
            if output.form in PICTURED:
                output.write(drawn(record, output.form, wanted.normalize, wanted.by))
                return 0
            with output.opened() as sink:
                _write(record, None, wanted, output, sink)
            return 0
        return _run_lines(lm, lines, wanted, output, watch)


def _run_lines(lm: Any, lines: list[tuple[int, bytes]], wanted: Wanted, output: Output, watch: Any) -> int:
    """Every line ends as a result or an error, and the last line of standard error counts both."""
    explained = _explained(lm, lines, wanted, output, watch)
    failed = _write_page(explained, output, watch) if output.form == "html" else _write_lines(explained, wanted, output)
    watch.say(f"{len(lines)} prompts: {len(lines) - failed} explained, {failed} failed", keep=True)
    return 1 if failed else 0


def _explained(lm: Any, lines: list[tuple[int, bytes]], wanted: Wanted, output: Output, watch: Any) -> Iterator[tuple[int, Explained]]:
    """What became of each line, with its number."""
    texts = [decoded(raw) for _, raw in lines]
    readable = [text for text in texts if isinstance(text, str)]
    results = attribute_many(lm, readable, wanted.method, errors="return", **vars(wanted.question), **wanted.options)
    for (number, raw), text in zip(lines, texts, strict=True):
        result = next(results) if isinstance(text, str) else Failure(number, raw.decode(errors="replace"), text)
        result = _displayable(result, wanted)
        yield number, result if isinstance(result, Failure) else _traced(lm, result, wanted, output)
        watch.advance()


def _write_lines(explained: Iterable[tuple[int, Explained]], wanted: Wanted, output: Output) -> int:
    """Each as soon as it is there; how many failed."""
    failed = 0
    with output.opened() as sink:
        for number, result in explained:
            failed += isinstance(result, Failure)
            _write(result, number, wanted, output, sink)
            sink.flush()
    return failed


def _write_page(explained: Iterable[tuple[int, Explained]], output: Output, watch: Any) -> int:
    """One page for all lines; what failed is said on standard error. How many did."""
    views, failed = [], 0
    for number, result in explained:
        if isinstance(result, Failure):
            failed += 1
            watch.say(f"line {number}: {visible(str(result.error))}", keep=True)
        else:
            views.append(named(result, f"line {number}"))
    if views:  # else what was there stays
        output.write(pages(views))
    return failed


def _traced(lm: Any, result: Attribution, wanted: Wanted, output: Output) -> Attribution:
    """With removal curves where they are asked for, or a page shows them."""
    return with_curves(lm, result) if wanted.curves or (wanted.curves is None and output.form == "html") else result


def _displayable(result: Attribution | Failure, wanted: Wanted) -> Attribution | Failure:
    """The result; a Failure where it refuses the normalisation or unit, so that the other lines are not lost."""
    if isinstance(result, Failure):
        return result
    try:
        result.normalized(wanted.normalize)
        if wanted.by is not None:
            result.by(wanted.by)
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
        output.write_json({"schema": 1, **number, "prompt": {"text": result.prompt}, "error": error}, sink)
        return
    record = {**result.to_dict(), **number}
    if wanted.normalize != "none":
        record["normalized"] = {"how": wanted.normalize, "scores": result.normalized(wanted.normalize).tolist()}
    if wanted.by is not None:
        record["by"] = result.by(wanted.by).to_dict()
    output.write_json(record, sink)


def _write_heatmap(result: Attribution | Failure, line: int | None, wanted: Wanted, sink: IO[str]) -> None:
    from rich.text import Text

    from noiser.views.terminal.attribution import heatmap

    screen = console(sink)
    if line is not None:
        screen.rule(f"line {line}", style="dim")
    if isinstance(result, Failure):
        screen.print(Text(f"Error: {visible(str(result.error))}", style="red"))
    else:
        screen.print(heatmap(result, wanted.normalize, wanted.by))
