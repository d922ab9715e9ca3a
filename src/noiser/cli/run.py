"""`noiser run`: an experiment, resumed by the same command."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.inputs import read_judges, split_commas
from noiser.cli.options import (
    ADVANCED,
    ATTENTION_HELP,
    DEFAULT_MODEL,
    METHOD,
    MODEL,
    OUTPUT,
    REVISION_HELP,
    WHAT,
    Adapter,
    AllowPickle,
    FieldNames,
    JudgeOptions,
    TemplateArgs,
    TokenBudget,
    Tokenizer,
    TrustRemoteCode,
    expand_options,
    format_option,
)
from noiser.cli.outputs import Output, console
from noiser.errors import OptionError, require_extra

if TYPE_CHECKING:
    from noiser.experiments.estimate import Estimate
    from noiser.experiments.plan import ExecutionConfig, Plan
    from noiser.experiments.schedule import Executor, RunProgress
    from noiser.experiments.status import RunStatus

FORMATS = ("table", "json")
SHARED = ("tokenizer", "adapter", "revision", "dtype", "attention", "trust_remote_code", "allow_pickle", "template_args")
"""The options that all models of a run share."""
UNFINISHED = 75
"""The exit status of a run that stopped in good order before its end: start it again (EX_TEMPFAIL)."""

Limit = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Use only the first N prompts of each set that the model answers.", rich_help_panel=WHAT),
]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a run computes. Every option changes numbers, and None leaves the default to the plan."""

    data: Annotated[
        str | None,
        typer.Option(
            help="Data sets, separated by commas, see `noiser data list`; known:path=FILE; a .jsonl, .json, .csv file, ...",
            rich_help_panel=WHAT,
        ),
    ] = None
    fields: FieldNames = None
    limit: Limit = None
    generate: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Explain N tokens generated greedily by the model. (default: as the set says)", rich_help_panel=WHAT
        ),
    ] = None
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, separated by commas. Options follow a colon: noiser:bound=l2+steps=5. (default: three methods)",
            rich_help_panel=METHOD,
        ),
    ] = None
    metrics: Annotated[
        str | None,
        typer.Option(help="Metrics, separated by commas, with options as for methods; '' for attributions only.", rich_help_panel=METHOD),
    ] = None
    models: Annotated[
        str | None,
        typer.Option(
            help=f"Models, separated by commas, with options as for methods: NAME:revision=R+dtype=D. (default: {DEFAULT_MODEL})",
            rich_help_panel=MODEL,
        ),
    ] = None
    tokenizer: Tokenizer = None
    adapter: Adapter = None
    dtype: Annotated[
        str | None,
        typer.Option(help="auto, float32, bfloat16, float16, for all models. (default: auto)", rich_help_panel=MODEL),
    ] = None
    controls: Annotated[
        str | None,
        typer.Option(
            help="Control rows that ignore the model; permuted:NAME shuffles the scores of NAME. (default: all five)",
            rich_help_panel=ADVANCED,
        ),
    ] = None
    seed: Annotated[int | None, typer.Option(help="The seed of all random draws. (default: 0)", rich_help_panel=ADVANCED)] = None
    revision: Annotated[str | None, typer.Option(help=REVISION_HELP, rich_help_panel=ADVANCED)] = None
    attention: Annotated[str | None, typer.Option(help=ATTENTION_HELP, rich_help_panel=ADVANCED)] = None
    trust_remote_code: TrustRemoteCode = False
    allow_pickle: AllowPickle = False
    template_args: TemplateArgs = None

    def given(self) -> dict[str, Any]:
        """The options that the user gave."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value is not False}


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How and where a run is computed. No option changes a number."""

    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda, cuda:1, mps. auto: the GPU of the launcher's LOCAL_RANK, else the first GPU, else the CPU.",
            rich_help_panel=MODEL,
        ),
    ] = "auto"
    device_map: Annotated[
        str | None,
        typer.Option(help="Spread each model over all GPUs: auto, balanced, sequential.", rich_help_panel=ADVANCED),
    ] = None
    token_budget: TokenBudget = None
    max_samples: Annotated[
        int,
        typer.Option(min=1, help="Prompts computed together. More is faster on a GPU, and a kill loses more.", rich_help_panel=ADVANCED),
    ] = 1
    time_limit: Annotated[
        float | None,
        typer.Option(min=0, help="Stop the run in good order after so many seconds, with exit status 75.", rich_help_panel=ADVANCED),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="The most seconds for one method, or all metrics, on one prompt.", rich_help_panel=ADVANCED),
    ] = None
    fail_on_error: Annotated[
        float,
        typer.Option(min=0, max=1, help="Exit with status 1 if more than this share of the prompts fails.", rich_help_panel=ADVANCED),
    ] = 0.01
    retry: Annotated[bool, typer.Option("--retry", help="Run failed trials again.", rich_help_panel=ADVANCED)] = False
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Compute only shard I of N, counted from 0. (default: as the launcher says)", rich_help_panel=ADVANCED
        ),
    ] = None
    engine: Annotated[str, typer.Option(help="local: this process; ray: workers on a Ray cluster.", rich_help_panel=ADVANCED)] = "local"
    address: Annotated[str | None, typer.Option(help="With --engine ray: the address of a cluster, or auto.", rich_help_panel=ADVANCED)] = (
        None
    )
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --engine ray: the number of workers. (default: one for each GPU, or one for all CPUs)",
            rich_help_panel=ADVANCED,
        ),
    ] = None

    def config(self, judging: JudgeOptions) -> "ExecutionConfig":
        """The settings, with the launcher's share of the work and its GPU. Raises OptionError for what does not fit."""
        from noiser.experiments.plan import ExecutionConfig
        from noiser.experiments.shards import local_device, read_shard

        if self.engine not in ("local", "ray"):
            raise OptionError(f"--engine must be local or ray; got {self.engine!r}")
        if self.engine == "local" and (self.address is not None or self.workers is not None):
            raise OptionError("--address and --workers are for --engine ray")
        if self.engine == "ray" and self.shard is not None:
            raise OptionError("--engine ray distributes the work itself: leave out --shard")
        is_local = self.engine == "local"
        if not is_local:
            require_extra("ray", "--engine ray")
        if self.device_map is not None:
            require_extra("devices", "--device-map")
        return ExecutionConfig(
            device=local_device(self.device) if is_local and self.device_map is None else self.device,
            shard=read_shard(self.shard) if is_local else (0, 1),
            device_map=self.device_map,
            token_budget=self.token_budget,
            max_samples=self.max_samples,
            time_limit=self.time_limit,
            timeout=self.timeout,
            fail_on_error=self.fail_on_error,
            retry=self.retry,
            engine=self.engine,
            address=self.address,
            workers=self.workers,
            judge_config=judging.config(self.device),
        )


@expand_options
def run(
    plan: Annotated[
        Path | None,
        typer.Argument(metavar="PLAN.toml", help="A plan. Without it, the options say what is run.", show_default=False),
    ] = None,
    *,
    options: PlanOptions,
    judging: JudgeOptions,
    execution: ExecutionOptions,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The folder of the run: a new one, or that of a run to resume.", rich_help_panel=OUTPUT),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate time and memory, from a few prompts.", rich_help_panel=OUTPUT)
    ] = False,
    format_: Annotated[str, format_option("The format of --dry-run: table, json.")] = "table",
) -> None:
    """Models x data x methods x metrics, into a folder. After a kill, the same command goes on."""
    config = execution.config(judging)
    chosen = choose_plan(plan, options, judging.judge)
    if dry_run:
        estimate_run(chosen, out, config, Output.checked(format_, None, FORMATS))
        raise typer.Exit(0)
    raise typer.Exit(run_plan(chosen, out, config))


def choose_plan(file: Path | None, options: PlanOptions, judges: str | None) -> "Plan":
    """The plan of the file, or of the options. Raises OptionError for both or neither."""
    from noiser.experiments.plan import make_plan, read_plan

    given = options.given() | ({} if judges is None else {"judge": judges})
    if file is not None:
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise OptionError(f"the plan says what is run: leave out {names}, or change {file}")
        return read_plan(file)
    if options.data is None:
        raise OptionError("give a plan (noiser run PLAN.toml), or --data: known-mini, longra-mini, wikibio-mini, a .jsonl file, ...")
    shared = {name: given[name] for name in SHARED if name in given}
    generate = {} if options.generate is None else {"generate": options.generate}
    tables: dict[str, Any] = {
        "models": [{**_model_table(label), **shared} for label in split_commas(options.models or DEFAULT_MODEL)],
        "data": [_data_table(label, generate, options.fields) for label in split_commas(options.data)],
    }
    lists = {name: split_commas(value) for name in ("methods", "metrics", "controls") if (value := getattr(options, name)) is not None}
    numbers = {name: given[name] for name in ("limit", "seed") if name in given}
    return make_plan({**tables, **lists, **numbers, **({} if judges is None else {"judges": read_judges(judges)})})


def _model_table(label: str) -> dict[str, Any]:
    from noiser.registry import read_label

    name, options = (label, {}) if Path(label).exists() else read_label(label)
    return {"name": name, **options}


def _data_table(label: str, options: Mapping[str, Any], fields: str | None) -> dict[str, Any]:
    from noiser.data import SETS, read_label_of_data

    name, path, label_options = read_label_of_data(label)
    if fields is not None and SETS[name].kind == "jsonl":
        options = {**options, "fields": fields}
    return {"name": name, **({} if path is None else {"path": path}), **options, **label_options}


def run_plan(plan: "Plan", out: Path | None, config: "ExecutionConfig") -> int:
    """Run, and show how the run ended. The exit status is that of `exit_status`."""
    from noiser.cli.progress import run_progress
    from noiser.cli.status import summary

    if out is None:
        raise OptionError("give --out FOLDER: the results are kept there, and the same command goes on from there")
    with run_progress() as progress:
        outcome = execute(plan, out, config, progress)
    console(sys.stderr).print(summary(outcome, out))
    return exit_status(outcome, config)


def execute(plan: "Plan", out: Path, config: "ExecutionConfig", progress: "RunProgress") -> "RunStatus":
    """Find models and data, and run."""
    from noiser.experiments.run import prepare, run

    index, count = config.shard
    if count > 1:
        progress.say(f"this is shard {index}/{count}, counted from 0: it computes every {count}th sample", keep=True)
    progress.say("looking for models and data")
    prepared = prepare(plan, config)
    for data in prepared.datasets.values():
        for remark in data.remarks:
            progress.say(f"{data.source}: {remark}", keep=True)
    return run(prepared, out, config, progress, executor(config))


def executor(config: "ExecutionConfig") -> "Executor":
    """What computes the run: this process, or a Ray cluster."""
    if config.engine == "local":
        from noiser.experiments.run import run_locally

        return run_locally
    from noiser.experiments.ray.driver import run_on_ray

    return run_on_ray


def exit_status(outcome: "RunStatus", config: "ExecutionConfig") -> int:
    """0: done; 1: done, but too many samples failed; 75: not done yet."""
    if outcome.failed > config.fail_on_error * (outcome.samples + outcome.unreadable):
        return 1
    return UNFINISHED if outcome.stopped or not (outcome.complete or config.shard != (0, 1)) else 0


def estimate_run(plan: "Plan", out: Path | None, config: "ExecutionConfig", output: Output) -> None:
    """Show what the run would cost."""
    from noiser.cli.progress import run_progress
    from noiser.experiments.estimate import estimate
    from noiser.experiments.run import prepare

    with run_progress() as progress:
        cost = estimate(prepare(plan, config), out, config, progress)
    with output.open() as sink:
        if output.format == "json":
            output.write_json({"schema": 1, **cost.to_dict()}, sink)
            return
        screen = console(sink)
        for line in _estimate_lines(cost):
            screen.print(line)


def _estimate_lines(cost: "Estimate") -> Sequence[str]:
    from noiser.cli.progress import duration
    from noiser.views.labels import visible

    lines = [
        f"{visible(cell.model)} on {visible(cell.data)}: {cell.samples:,} samples of {cell.rows:,} rows, {cell.trials:,} trials; "
        f"{cell.forward_tokens:,} tokens forward, {cell.backward_tokens:,} backward, {duration(cell.seconds)}"
        for cell in cost.cells
    ]
    lines.append(f"All: {cost.trials:,} trials, {cost.forward_tokens:,} tokens forward, {cost.backward_tokens:,} backward")
    if cost.clues:
        lines.append(f"{cost.clues:,} questions to judges (forms x conditions); answers in the cache are not asked again")
    lines.append(f"About {duration(cost.seconds)} for one worker like this one; peak memory {cost.peak_bytes / 2**30:.1f} GiB")
    lines.append(f"From {cost.calibrated} samples that were run in {cost.spent:.0f} s; nothing was written")
    return lines
