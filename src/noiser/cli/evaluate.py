"""`noiser evaluate`: how faithful are the methods to a model?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.catalogue import check, defaults, listed
from noiser.cli.inputs import assign_settings, read_file_rows, read_judges, read_names
from noiser.cli.options import (
    ADVANCED,
    DEFAULT_METHODS,
    METHOD,
    OUTPUT,
    WHAT,
    FieldNames,
    JudgeOptions,
    Methods,
    ModelOptions,
    Out,
    Seed,
    expand_options,
    format_option,
)
from noiser.cli.outputs import Output, console
from noiser.errors import OptionError, PromptError, require_extra
from noiser.registry import DEFAULT_METRICS

if TYPE_CHECKING:
    from noiser.evaluation.spec import EvaluationSpec
    from noiser.results.evaluation import Evaluation
    from noiser.results.records import Example

FORMATS = ("table", "json")
METRICS = ",".join(DEFAULT_METRICS)
NOT_FAILED = {"ok", "undefined", "refused", "invalid_answer"}
"""Statuses of trials that ended as they should."""

Selected = Mapping[str, Mapping[str, Any]]
"""Labels of methods or metrics, and the options of each beside those in its label."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Which prompts, methods and metrics are evaluated."""

    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Prompts: text, one on each line, or JSON lines, JSON, CSV, TSV, Parquet; - is standard input.",
            rich_help_panel=WHAT,
        ),
    ] = None
    fields: FieldNames = None
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Use only the first N prompts.", rich_help_panel=WHAT)] = None
    generate: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Evaluate N tokens generated greedily by the model.", rich_help_panel=WHAT),
    ] = None
    methods: Methods = DEFAULT_METHODS
    metrics: Annotated[
        str, typer.Option(help="Metrics, separated by commas, with options as for methods. --list explains them.", rich_help_panel=METHOD)
    ] = METRICS
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[NAME.]OPTION=VALUE",
            help="An option of the method or metric NAME, or of all that have it. Repeat it for more.",
            rich_help_panel=METHOD,
        ),
    ] = None
    controls: Annotated[
        str,
        typer.Option(help="Control rows that ignore the model; permuted:NAME shuffles the scores of NAME.", rich_help_panel=ADVANCED),
    ] = "random,uniform,constant,recency,permuted"
    protocol: Annotated[
        str | None,
        typer.Option(
            help="How the soft metrics mask: matched, proportional, paper, official. (default: matched)", rich_help_panel=ADVANCED
        ),
    ] = None
    masks: Annotated[
        int | None, typer.Option(min=1, help="The number of random masks of the soft metrics. (default: 16)", rich_help_panel=ADVANCED)
    ] = None
    orders: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Compare every value with N random orders of the tokens: win rate and p-value (19 orders allow p = 0.05).",
            rich_help_panel=ADVANCED,
        ),
    ] = 0
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder/--no-ladder",
            help="Try whether each metric orders the first method's scores with more and more noise in them, and say so if not.",
            rich_help_panel=ADVANCED,
        ),
    ] = True
    seed: Seed = 0
    plots: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a plot of each metric as SVG and PNG.", rich_help_panel=OUTPUT)
    ] = None


@expand_options
def evaluate(
    *,
    options: EvaluateOptions,
    model: ModelOptions,
    judging: JudgeOptions,
    list_: Annotated[
        bool, typer.Option("--list", help="List all metrics: what each measures, and what misleads it.", rich_help_panel=METHOD)
    ] = False,
    format_: Annotated[str, format_option("table, json.")] = "table",
    out: Out = None,
) -> None:
    """How far can each method be trusted on this model? Faithfulness with intervals, beside controls."""
    output = Output.checked(format_, out, FORMATS)
    if list_:
        list_metrics(output)
        raise typer.Exit(0)
    raise typer.Exit(_run(model, _parse(options, judging, model.device), options.plots, output))


def _parse(options: EvaluateOptions, judging: JudgeOptions, device: str) -> "EvaluationSpec":
    """Everything that is evaluated, checked. Raises OptionError for what does not exist or fit."""
    if options.prompts is None:
        raise OptionError(
            "give --prompts FILE, e.g. with one prompt on each line (- is standard input), or --list to read about the metrics"
        )
    if options.plots is not None:
        require_extra("plots", "--plots")
        _make_folder(options.plots)
    methods, metrics = _select(options)
    from noiser.evaluation.spec import EvaluationSpec

    return EvaluationSpec.parse(
        read_examples(options.prompts, options.fields),
        methods,
        metrics,
        controls=read_names("--controls", options.controls),
        generate=options.generate,
        limit=options.limit,
        orders=options.orders,
        ladder=options.ladder,
        seed=options.seed,
        judges=read_judges(judging.judge),
        judge_config=judging.config(device),
    )


def _select(options: EvaluateOptions) -> tuple[Selected, Selected]:
    """The methods and the metrics, each with the options of --set, --protocol and --masks."""
    methods, metrics = read_names("--methods", options.methods), read_names("--metrics", options.metrics)
    check("methods", methods)
    check("metrics", metrics)
    import noiser.methods
    import noiser.metrics

    method_defaults = {label: noiser.methods.parse(label).options for label in methods}
    metric_defaults = {label: noiser.metrics.parse(label).options for label in metrics}
    defaults = {**method_defaults, **metric_defaults}
    settings: dict[str, dict[str, Any]] = {**assign_settings(options.settings or [], defaults, "--methods and --metrics")}
    for option in ("protocol", "masks"):
        if (value := getattr(options, option)) is not None:
            _share(option, value, metric_defaults, settings)
    return {label: settings[label] for label in methods}, {label: settings[label] for label in metrics}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--plots wants a folder that can be written; {folder}: {error.strerror}") from error


def _share(option: str, value: Any, defaults: Selected, settings: dict[str, dict[str, Any]]) -> None:
    """Set the option for all metrics that have it, except those that set it themselves."""
    from noiser.registry import read_label

    takers = [label for label in defaults if option in defaults[label]]
    if not takers:
        raise OptionError(f"--{option} is for the soft metrics, and none of {', '.join(defaults)} is one")
    for label in takers:
        if option not in read_label(label)[1]:
            settings[label].setdefault(option, value)


def read_examples(file: str, fields: str | None = None) -> "list[Example]":
    """The rows of a file as examples, see `noiser.data.read_file`.

    A row that cannot be read becomes an example that failed, so the other rows are not lost. Raises OptionError if there is no row,
    or an id occurs twice.
    """
    from noiser.results.records import Example

    return [
        Example(PromptError(row.error) if row.error else row.prompt, row.target_ids or row.target, row.id, row.group)
        for row in read_file_rows(file, fields).rows
    ]


def _run(model: ModelOptions, spec: "EvaluationSpec", plots: Path | None, output: Output) -> int:
    """Evaluate and write. The exit status is 1 if a trial failed; undefined, refused and invalid answers are no failures."""
    from noiser.cli.progress import loaded_model
    from noiser.evaluation import run_evaluation
    from noiser.judges.protocol import tally

    with loaded_model(model, len(spec.examples[: spec.limit])) as (lm, progress):
        evaluation = run_evaluation(lm, spec, lambda _: progress.advance())
        for name, counts in evaluation.judges.items():
            progress.say(tally(name, counts), keep=True)
    with output.open() as sink:
        _write(evaluation, output, sink)
    if plots is not None:
        from noiser.views.plots import save_plots

        save_plots(evaluation.summaries, evaluation.model, plots)
    return 0 if set(evaluation.statuses) <= NOT_FAILED else 1


def _write(evaluation: "Evaluation", output: Output, sink: IO[str]) -> None:
    if output.format == "json":
        output.write_json(evaluation.to_dict(), sink)
        return
    from noiser.views.terminal.evaluation import render_evaluation

    console(sink, min_width=120).print(render_evaluation(evaluation))


_SHOWN = ("name", "better", "measures", "failure_mode", "cost", "source")
_NAMES = {"failure_mode": "fools"}


def list_metrics(output: Output) -> None:
    """For each metric its options, what it measures and what misleads it."""
    records = [{_NAMES.get(name, name): entry[name] for name in _SHOWN} | {"options": defaults(entry)} for entry in listed("metrics")]
    with output.open() as sink:
        if output.format == "json":
            output.write_json({"schema": 1, "metrics": records}, sink)
        else:
            console(sink).print(_listing(records))


def _listing(records: list[dict[str, Any]]) -> Any:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    blocks: list[Any] = []
    for record in records:
        options = ", ".join(f"{name}={value}" for name, value in record["options"].items())
        blocks.append(Text.assemble((record["name"], "bold"), f"  ({record['better']} is better)  ", (options, "dim")))
        for name, sentence in (("measures", record["measures"]), ("fools it", record["fools"])):
            blocks.append(Padding(Text(f"{name}: {sentence}"), (0, 0, 0, 4)))
    return Group(*blocks)
