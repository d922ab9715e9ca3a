"""`noiser interactions`: which words of a prompt work together?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.inputs import SourceOptions, TargetOptions, read_messages
from noiser.cli.options import METHOD, Messages, ModelOptions, Out, Prompt, expand_options, format_option
from noiser.cli.outputs import Output, choose_format, console
from noiser.errors import OptionError

if TYPE_CHECKING:
    from noiser.lm.target import Question

FORMATS = ("table", "json", "html")


@dataclass(frozen=True, kw_only=True)
class InteractionOptions:
    """What is taken out of the prompt, and how often."""

    unit: Annotated[
        str, typer.Option(help="What is present or missing: token, word, sentence, line, paragraph, turn, span.", rich_help_panel=METHOD)
    ] = "word"
    baseline: Annotated[
        str, typer.Option(help="What replaces a missing token: zero or unk (the unknown token).", rich_help_panel=METHOD)
    ] = "zero"
    samples: Annotated[
        int | None,
        typer.Option(help="The most sets of units to run. (default: all, up to 12 units; else 60 for each)", rich_help_panel=METHOD),
    ] = None
    seed: Annotated[int, typer.Option(help="The seed of an estimate.", rich_help_panel=METHOD)] = 0


@dataclass(frozen=True, kw_only=True)
class InteractionArgs:
    """What `noiser interactions` explains, and how. Everything is checked before weights are read."""

    prompt: str | list[Any]
    named: dict[str, Any]
    """The spans or documents of the prompt."""
    question: "Question"
    options: InteractionOptions
    output: Output


@expand_options
def interactions(
    prompt: Prompt = None,
    *,
    target: TargetOptions,
    messages: Messages = None,
    sources: SourceOptions,
    options: InteractionOptions,
    model: ModelOptions,
    format_: Annotated[str | None, format_option(f"{', '.join(FORMATS)}. (default: as --out ends, else table)")] = None,
    out: Out = None,
) -> None:
    """Which words of a prompt do more together than each alone? Shapley interactions of every two."""
    from noiser.attribution.interactions import check_interaction_options

    if (prompt is None) == (messages is None):
        raise OptionError("give either a prompt or --messages" + (", not both" if prompt is not None else ""))
    check_interaction_options(options.unit, options.baseline, options.samples)
    arguments = InteractionArgs(
        prompt=prompt or "" if messages is None else read_messages(messages),
        named=sources.read(),
        question=target.question(),
        options=options,
        output=Output.checked(choose_format(format_, out, "table", FORMATS), out, FORMATS),
    )
    model.check_chat(arguments.prompt)
    _run(model, arguments)


def _run(model: ModelOptions, arguments: InteractionArgs) -> None:
    import noiser.attribution.interactions as attribution
    from noiser.cli.progress import loaded_model
    from noiser.views.terminal.interactions import render_interactions

    output = arguments.output
    with loaded_model(model, 1) as (lm, _):
        result = attribution.interactions(lm, arguments.prompt, arguments.question, **arguments.named, **vars(arguments.options))
    if output.format == "html":
        output.write_page(result)
        return
    with output.open() as sink:
        if output.format == "json":
            output.write_json(result.to_dict(), sink)
        else:
            console(sink).print(render_interactions(result))
