"""`noiser check`: which sanity checks does each method pass?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.inputs import method_settings, read_file_rows
from noiser.cli.options import (
    DEFAULT_METHODS,
    WHAT,
    FieldNames,
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
        typer.Option(metavar="FILE", help="Prompts to check on, as for evaluate. (default: four built-in prompts)", rich_help_panel=WHAT),
    ] = None,
    fields: FieldNames = None,
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
    texts = PROMPTS if prompts is None else _read_prompts(prompts, fields)
    raise typer.Exit(_run(model, specs, texts, seed, Output.checked(format_, out, FORMATS)))


def _read_prompts(file: str, fields: str | None) -> list[Any]:
    """The prompts of a file. Raises OptionError for a row that cannot be read: a check needs all of them."""
    found = read_file_rows(file, fields)
    wrong = next((row.error for row in found.rows if row.error), None)
    if wrong is not None:
        raise OptionError(f"{file}: {wrong}")
    return [row.prompt for row in found.rows]


def _run(model: ModelOptions, methods: "Sequence[MethodSpec]", prompts: Sequence[Any], seed: int, output: Output) -> int:
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
