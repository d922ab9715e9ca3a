"""`noiser check`: which sanity checks does each method pass? With --metrics: which metrics deserve belief?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.catalogue import check as check_names
from noiser.cli.inputs import method_settings, read_file_rows, read_names
from noiser.cli.options import (
    DEFAULT_METHODS,
    METHOD,
    WHAT,
    FieldNames,
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
        typer.Option(metavar="FILE", help="Prompts to check on, as for evaluate. (default: built-in prompts)", rich_help_panel=WHAT),
    ] = None,
    fields: FieldNames = None,
    methods: Annotated[
        str | None,
        typer.Option(help=f"Methods, separated by commas. (default: {DEFAULT_METHODS}; others with --metrics)", rich_help_panel=METHOD),
    ] = None,
    settings: MethodSettings = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="[NAMES]",
            help="Check metrics: do they put worse scores below better ones? Without names the usual ones.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    seed: Seed = 0,
    model: ModelOptions,
    format_: Annotated[str, format_option("table, json.")] = "table",
    out: Out = None,
) -> None:
    """Does each method pass sanity checks, on your model and on models whose answer is known? With --metrics: which metrics tell?"""
    output = Output.checked(format_, out, FORMATS)
    if metrics is not None:
        _check_metrics(model, metrics, methods, settings or [], None if prompts is None else _read_prompts(prompts, fields), seed, output)
        return
    options = method_settings(methods or DEFAULT_METHODS, settings or [])
    import noiser.methods
    from noiser.evaluation.sanity import PROMPTS

    specs = noiser.methods.parse_all(options, seed=seed)
    texts = PROMPTS if prompts is None else _read_prompts(prompts, fields)
    raise typer.Exit(_run(model, specs, texts, seed, output))


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


def _check_metrics(
    model: ModelOptions, metrics: str, methods: str | None, settings: list[str], prompts: list[Any] | None, seed: int, output: Output
) -> None:
    """Check metrics and write. What a metric cannot do is a finding, so the exit status is 0."""
    if metrics != "default":
        check_names("metrics", read_names("--metrics", metrics))
    import noiser.methods
    import noiser.metrics
    from noiser.cli.progress import loaded_model
    from noiser.evaluation import metric_checks
    from noiser.views.terminal.sanity import render_metric_checkup

    labels = metric_checks.DEFAULT_METRICS if metrics == "default" else read_names("--metrics", metrics)
    columns = noiser.metrics.parse_all(labels, seed=seed)
    names = ",".join(metric_checks.DEFAULT_METHODS) if methods is None else methods
    rows = noiser.methods.parse_all(method_settings(names, settings), seed=seed)
    with loaded_model(model, len(columns)) as (lm, progress):
        checkup = metric_checks.check_metrics(lm, columns, rows, prompts=prompts, seed=seed, on_metric=lambda _: progress.advance())
    with output.open() as sink:
        if output.format == "json":
            output.write_json(checkup.to_dict(), sink)
        else:
            console(sink, min_width=120).print(render_metric_checkup(checkup))
