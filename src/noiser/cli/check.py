"""`noiser check`: which sanity checks does each method pass?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from noiser.cli.inputs import decode_line, method_settings, read_lines
from noiser.cli.options import (
    DEFAULT_METHODS,
    WHAT,
    Methods,
    MethodSettings,
    ModelOptions,
    Out,
    Seed,
    expand_options,
    format_option,
)
from noiser.cli.outputs import Output, console
from noiser.errors import OptionError

if TYPE_CHECKING:
    from noiser.registry import MethodSpec

FORMATS = ("table", "json")


@expand_options
def check(
    *,
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Prompts to check on, one on each line. (default: four built-in prompts)", rich_help_panel=WHAT),
    ] = None,
    methods: Methods = DEFAULT_METHODS,
    settings: MethodSettings = None,
    seed: Seed = 0,
    model: ModelOptions,
    format_: Annotated[str, format_option("table, json.")] = "table",
    out: Out = None,
) -> None:
    """Does each method pass sanity checks, on your model and on models whose answer is known?"""
    import noiser.methods
    from noiser.evaluation.sanity import PROMPTS

    specs = noiser.methods.parse_all(method_settings(methods, settings or []), seed=seed)
    texts = PROMPTS if prompts is None else _read_prompts(prompts)
    raise typer.Exit(_run(model, specs, texts, seed, Output.checked(format_, out, FORMATS)))


def _read_prompts(file: str) -> list[str]:
    texts: list[str] = []
    for _, line in read_lines(file):
        text = decode_line(line)
        if not isinstance(text, str):
            raise OptionError(f"{file}: {text}")
        texts.append(text)
    return texts


def _run(model: ModelOptions, methods: "Sequence[MethodSpec]", prompts: Sequence[str], seed: int, output: Output) -> int:
    """Check and write. The exit status is 1 if a check failed."""
    import noiser.evaluation.sanity
    from noiser.cli.progress import loaded_model
    from noiser.views.terminal.sanity import render_checkup

    with loaded_model(model, len(methods)) as (lm, progress):
        checkup = noiser.evaluation.sanity.check(lm, methods, prompts=prompts, seed=seed, on_method=lambda _: progress.advance())
    with output.open() as sink:
        if output.format == "json":
            output.write_json(checkup.to_dict(), sink)
        else:
            console(sink, min_width=20 + 20 * len(checkup.methods)).print(render_checkup(checkup))
    return 1 if checkup.outcomes.get("fail") else 0
