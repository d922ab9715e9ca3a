"""`noiser compare`: several methods on one prompt, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.inputs import SourceOptions, TargetOptions, method_settings, read_messages
from noiser.cli.options import (
    DEFAULT_METHODS,
    Messages,
    Methods,
    MethodSeed,
    MethodSettings,
    ModelOptions,
    Out,
    Prompt,
    expand_options,
    format_option,
)
from noiser.cli.outputs import PICTURES, DisplayOptions, Output, choose_format, console
from noiser.errors import OptionError

if TYPE_CHECKING:
    from noiser.lm.target import Question
    from noiser.registry import MethodSpec
    from noiser.results.attribution import Comparison

FORMATS = ("heatmap", "json", "html", "svg", "png")


@dataclass(frozen=True, kw_only=True)
class CompareArgs:
    """What `noiser compare` compares. Everything is checked before weights are read."""

    prompt: str | list[Any]
    named: dict[str, Any]
    """The spans or documents of the prompt."""
    methods: Sequence["MethodSpec"]
    question: "Question"
    display: DisplayOptions
    output: Output


@expand_options
def compare(
    prompt: Prompt = None,
    *,
    target: TargetOptions,
    messages: Messages = None,
    sources: SourceOptions,
    methods: Methods = DEFAULT_METHODS,
    settings: MethodSettings = None,
    seed: MethodSeed = None,
    model: ModelOptions,
    format_: Annotated[str | None, format_option(f"{', '.join(FORMATS)}. (default: as --out ends, else heatmap)")] = None,
    out: Out = None,
    display: DisplayOptions,
) -> None:
    """Several methods on the same tokens and the same target: how far they agree, and what each costs."""
    if (prompt is None) == (messages is None):
        raise OptionError("give either a prompt or --messages" + (", not both" if prompt is not None else ""))
    display.check()
    options = method_settings(methods, settings or [])
    import noiser.methods

    arguments = CompareArgs(
        prompt=prompt or "" if messages is None else read_messages(messages),
        named=sources.read(),
        methods=noiser.methods.parse_all(_with_seed(options, seed)),
        question=target.question(),
        display=display,
        output=Output.checked(choose_format(format_, out, "heatmap", FORMATS), out, FORMATS),
    )
    model.check_chat(arguments.prompt)
    raise typer.Exit(_run(model, arguments))


def _with_seed(methods: dict[str, dict[str, Any]], seed: int | None) -> dict[str, dict[str, Any]]:
    """Set the seed of --seed for every method that has one and does not set it in its label."""
    import noiser.methods
    from noiser.registry import read_label

    if seed is None:
        return methods
    has_seed = {label: "seed" in noiser.methods.parse(label).options and "seed" not in read_label(label)[1] for label in methods}
    return {label: {**options, "seed": seed} if has_seed[label] else options for label, options in methods.items()}


def _run(model: ModelOptions, arguments: CompareArgs) -> int:
    """Compare and write. The exit status is 1 if a method failed."""
    import noiser.attribution.compare as attribution
    from noiser.attribution.curves import with_curves
    from noiser.cli.progress import loaded_model

    output, display = arguments.output, arguments.display
    with loaded_model(model, 1) as (lm, _):
        comparison = attribution.compare(lm, arguments.prompt, arguments.methods, arguments.question, **arguments.named)
        for result in comparison.attributions:
            display.check_result(result)
        if display.with_curves(output.format):
            comparison = with_curves(lm, comparison)
    if output.format in PICTURES:
        output.write_picture(comparison, display)
    else:
        with output.open() as sink:
            _write(comparison, arguments, sink)
    return 1 if comparison.failures else 0


def _write(comparison: "Comparison", arguments: CompareArgs, sink: IO[str]) -> None:
    from noiser.views.terminal.comparison import render_comparison

    display = arguments.display
    if arguments.output.format == "heatmap":
        screen = console(sink, min_width=24 + 30 * len(comparison.attributions))
        screen.print(render_comparison(comparison, display.normalize, display.granularity))
        return
    record = comparison.to_dict()
    for plain, result in zip(record["attributions"], comparison.attributions, strict=True):
        plain.update(display.extra_json(result))
    arguments.output.write_json(record, sink)
