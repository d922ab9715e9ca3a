"""`noiser reproduce`: a table or figure of the paper, from plan to report in one command."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noiser.cli.inputs import read_judges, split_commas
from noiser.cli.options import OUTPUT, WHAT, JudgeOptions, ModelChoiceOptions, Seed, expand_options, format_option
from noiser.cli.outputs import Output, console
from noiser.cli.report import FORMATS, render, save_figures
from noiser.cli.run import ExecutionOptions, Limit, executor, exit_status
from noiser.cli.status import summary
from noiser.errors import require_extra

if TYPE_CHECKING:
    from noiser.experiments.plan import ExecutionConfig, Plan
    from noiser.experiments.schedule import PreparedRun, RunProgress

RUNS = Path("runs")


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """What is reproduced, beside the model."""

    data: Annotated[
        str | None,
        typer.Option(help="Data sets instead of the published ones, or where those are: known:path=FILE.", rich_help_panel=WHAT),
    ] = None
    limit: Limit = None
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="A first look: 2 prompts of each set, 4 masks, few points, 3 continuation tokens.", rich_help_panel=WHAT
        ),
    ] = False
    seed: Seed = 0


@expand_options
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="table1, 2, 3, 5, 6, 7, figure2, 3, 4.", show_default=False)],
    *,
    options: ReproduceOptions,
    model: ModelChoiceOptions,
    judging: JudgeOptions,
    execution: ExecutionOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The folder of the run. (default: one in runs/, named by what changes the numbers)",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    format_: Annotated[str, format_option("md, html, latex.")] = "md",
) -> None:
    """Reproduce a table or figure of the paper: plan, run and report. The same command resumes it."""
    from noiser.cli.progress import run_progress
    from noiser.experiments.report.reproduce import published
    from noiser.experiments.run import prepare, run

    require_extra("plots", "noiser reproduce")
    output = Output.checked(format_, None, FORMATS)
    config = execution.config(judging)
    publication = published(name)
    plan, messages = _plan(name, options, model, read_judges(judging.judge))
    with run_progress() as progress:
        for message in messages:
            progress.say(message, keep=True)
        prepared = prepare(plan, config)
        folder = out or _default_folder(publication.folder or name, plan, prepared)
        progress.say(f"the run is kept in {folder}", keep=True)
        _say_forecast(prepared, folder, config, progress, quick=options.quick)
        outcome = run(prepared, folder, config, progress, executor(config))
    console(sys.stderr).print(summary(outcome, folder))
    _write(folder, publication.sections, output)
    raise typer.Exit(exit_status(outcome, config))


def _plan(name: str, options: ReproduceOptions, model: ModelChoiceOptions, judges: Sequence[str]) -> "tuple[Plan, list[str]]":
    """The plan, and a message for each published data set that is not here."""
    from noiser.experiments.report.reproduce import present_sets, published, reproduction

    chosen = {"name" if field.name == "model" else field.name: getattr(model, field.name) for field in fields(model)}
    data, messages = (split_commas(options.data), []) if options.data else present_sets(published(name).data)
    return reproduction(name, [chosen], data, options.limit, options.seed, judges, quick=options.quick), messages


def _say_forecast(prepared: "PreparedRun", folder: Path, config: "ExecutionConfig", progress: "RunProgress", *, quick: bool) -> None:
    """Say what the run will take at least, before it begins."""
    from noiser.cli.progress import duration
    from noiser.experiments.estimate import forecast

    if not prepared.plan.rows:
        return
    cost = forecast(prepared, folder, config, progress)
    counts = f"{cost.trials:,} trials, {cost.forward_tokens:,} tokens forward, {cost.backward_tokens:,} backward"
    advice = "" if quick else "; --quick is a first look in minutes"
    progress.say(f"at least {duration(cost.seconds)} for one worker like this one: {counts}{advice}", keep=True)


def _default_folder(name: str, plan: "Plan", prepared: "PreparedRun") -> Path:
    """A folder named by what changes the numbers: the same command finds it again, and another one starts anew."""
    from noiser.experiments.fingerprint import stable_hash
    from noiser.storage import slug

    model = slug(plan.models[0].label, keep=".").lower()
    return RUNS / f"{name}-{model}-{stable_hash(prepared.fingerprint)[:8]}"


def _write(folder: Path, sections: Sequence[str], output: Output) -> None:
    """Write report.html, report.md and the figures into the folder of the run, and the report to the output."""
    from noiser.experiments.folder import RunFolder
    from noiser.experiments.report.report import report
    from noiser.storage import write_file

    document = report(RunFolder.open(folder), only=sections)
    save_figures(document, folder / "figures")
    for format_, file in (("html", "report.html"), ("md", "report.md")):
        write_file(folder / file, render(document, format_).encode())
    with output.open() as sink:
        sink.write(render(document, output.format, (folder / "figures").as_posix()))
