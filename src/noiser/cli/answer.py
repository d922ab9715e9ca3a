"""`noiser answer`: are the words with the highest scores enough to find the answer?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.catalogue import check
from noiser.cli.inputs import TokenIds, read_judges, read_messages, read_settings, read_words
from noiser.cli.options import (
    ADVANCED,
    JUDGE,
    WHAT,
    JudgeOptions,
    Messages,
    Method,
    ModelOptions,
    Out,
    Prompt,
    Seed,
    Settings,
    expand_options,
    format_option,
)
from noiser.cli.outputs import Output, console
from noiser.errors import OptionError, require_extra

if TYPE_CHECKING:
    from noiser.judges.protocol import Judge
    from noiser.registry import MethodSpec

FORMATS = ("text", "json")


@dataclass(frozen=True, kw_only=True)
class AnswerabilityOptions:
    """The options of the metric `answerability`."""

    share: Annotated[
        float,
        typer.Option(help="The share of the words to keep, from 0 to 1. It is rounded up, to at least one word.", rich_help_panel=JUDGE),
    ] = 0.5
    forms: Annotated[str, typer.Option(help="Ask for one word (top1), for five (top5), or for both.", rich_help_panel=JUDGE)] = "top1,top5"
    variant: Annotated[str, typer.Option(help="The wording of the question: paper, official.", rich_help_panel=ADVANCED)] = "paper"
    words: Annotated[str, typer.Option(help="How the prompt is split into words: unicode, treebank.", rich_help_panel=ADVANCED)] = "unicode"
    checks: Annotated[
        bool,
        typer.Option(
            help="Ask also with all words, no words, random words, shuffled words and a hidden instruction.", rich_help_panel=JUDGE
        ),
    ] = True
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class AnswerArgs:
    """What `noiser answer` explains, and which judges it asks. Everything is checked before weights are read."""

    prompt: str | list[Any]
    """A text or a chat."""
    target: TokenIds | None
    method: "MethodSpec"
    judges: "Sequence[Judge]"
    metric: Mapping[str, Any]
    output: Output


@expand_options
def answer(
    prompt: Prompt = None,
    *,
    messages: Messages = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="The answer, a word without its leading space, or id:N. (default: the model's own next token)", rich_help_panel=WHAT
        ),
    ] = None,
    method: Method = "noiser",
    settings: Settings = None,
    model: ModelOptions,
    judging: JudgeOptions,
    options: AnswerabilityOptions,
    format_: Annotated[str, format_option("text, json.")] = "text",
    out: Out = None,
) -> None:
    """Is the explanation enough? A judge sees only the words with the highest scores and continues the prompt."""
    check("methods", [method], read_settings(settings or []))
    from noiser.evaluation.answer import METRIC
    from noiser.evaluation.spec import select_judges
    from noiser.metrics import find_metric
    from noiser.text.units import is_available

    if (prompt is None) == (messages is None):
        raise OptionError("give either a prompt or --messages" + (", not both" if prompt is not None else ""))
    output = Output.checked(format_, out, FORMATS)
    if not is_available(options.words):
        require_extra("units", f"--words {options.words}")
    arguments = AnswerArgs(
        prompt=prompt or "" if messages is None else read_messages(messages),
        target=read_words("--target", target),
        method=_parse_method(method, settings or [], options.seed),
        judges=select_judges(read_judges(judging.judge), [METRIC], judging.config(model.device)),
        metric=find_metric(METRIC).resolve(asdict(options)),
        output=output,
    )
    model.check_chat(arguments.prompt)
    raise typer.Exit(_run(model, arguments))


def _parse_method(label: str, settings: Sequence[str], seed: int) -> "MethodSpec":
    import noiser.methods

    return noiser.methods.parse(label, read_settings(settings), seed=seed)


def _run(model: ModelOptions, arguments: AnswerArgs) -> int:
    """Explain, ask and write. The exit status is 1 if a judge gave no verdict; which verdict it gave does not matter."""
    from noiser.cli.progress import loaded_model
    from noiser.evaluation.answer import answer
    from noiser.judges.protocol import tally
    from noiser.views.terminal.answer_case import render_case

    with loaded_model(model, 1) as (lm, progress):
        options = {**arguments.metric, "judges": arguments.judges}
        case = answer(lm, arguments.prompt, arguments.target, arguments.method, **options)
        for judge in arguments.judges:
            progress.say(tally(judge.name, judge.counts), keep=True)
    with arguments.output.open() as sink:
        if arguments.output.format == "json":
            arguments.output.write_json(case.to_dict(), sink)
        else:
            console(sink).print(render_case(case))
    return 0 if all(ruling.correct is not None for ruling in case.rulings) else 1
