"""`noiser run`, `noiser status`, `noiser merge`, `noiser export`, `noiser report`, `noiser reproduce`: experiments."""

from pathlib import Path
from typing import Annotated

import typer

from noiser.cli.judge_options import JudgeAtOnce, JudgeBudget, JudgeCache, Judges, JudgeTimeout, JudgeUrl, judge_how
from noiser.cli.options import AllowPickle, Attention, Out, TokenBudget, TrustRemoteCode

PlanFile = Annotated[Path | None, typer.Argument(help="A TOML file; or say what to run with the options.", show_default=False)]
Folder = Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)]
Models = Annotated[str | None, typer.Option(help="Names, separated by commas; NAME:revision=R+dtype=D. (default: smollm2-135m)")]
Data = Annotated[str | None, typer.Option(help="Sets, separated by commas: noiser data list; known:path=FILE, or a .jsonl file.")]
Methods = Annotated[str | None, typer.Option(help="Names; noiser:bound=l2+steps=5 carries options.")]
Metrics = Annotated[str | None, typer.Option(help="Names likewise; an empty text: attributions only.")]
Controls = Annotated[str | None, typer.Option(help="Rows that know nothing of the model. (default: all five)")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts of each set that the model answers.")]
RunDevice = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps. (auto: the launcher's LOCAL_RANK counts)")]
DeviceMap = Annotated[str | None, typer.Option(help="Spread a model over all GPUs: auto, balanced, sequential.")]
MaxSeconds = Annotated[float | None, typer.Option(min=0, help="Stop in good order after so long; exit status 75.")]
Timeout = Annotated[float | None, typer.Option(min=0, help="Seconds that one method, or all metrics, may take for one prompt.")]
MaxErrors = Annotated[float, typer.Option(min=0, max=1, help="The share of prompts that may fail before the exit status is 1.")]
Retry = Annotated[bool, typer.Option("--retry", help="Run again what failed.")]
AtOnce = Annotated[int, typer.Option(min=1, help="Prompts worked on together: faster on a GPU; a kill loses so many.")]
ShardOption = Annotated[str | None, typer.Option("--shard", metavar="I/N", help="This process's share, from 0. (default: the launcher's)")]
Engine = Annotated[str, typer.Option(help="local, or ray: actors on a cluster.")]
Address = Annotated[str | None, typer.Option(help="With --engine ray: a cluster's address, or auto.")]
Workers = Annotated[int | None, typer.Option(min=1, help="With --engine ray: how many. (default: one a GPU, or one for all CPUs)")]


def run(
    plan: PlanFile = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder: new, or of the same run to go on with it.")] = None,
    models: Models = None,
    data: Data = None,
    methods: Methods = None,
    metrics: Metrics = None,
    controls: Controls = None,
    limit: Limit = None,
    generate: Annotated[int | None, typer.Option(min=0, help="Explain so many tokens of the model's own. (default: the set's)")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything drawn at random. (default: 0)")] = None,
    judge: Judges = None,
    judge_url: JudgeUrl = None,
    judge_cache: JudgeCache = "use",
    judge_at_once: JudgeAtOnce = 8,
    judge_timeout: JudgeTimeout = 60.0,
    judge_budget: JudgeBudget = 300.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take, from a few prompts.")] = False,
    max_seconds: MaxSeconds = None,
    timeout: Timeout = None,
    max_errors: MaxErrors = 0.01,
    retry: Retry = False,
    at_once: AtOnce = 1,
    shard: ShardOption = None,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    device: RunDevice = "auto",
    device_map: DeviceMap = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16.")] = None,
    attention: Attention = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    token_budget: TokenBudget = None,
    format_: Annotated[str, typer.Option("--format", help="Of --dry-run: table, json.")] = "table",
) -> None:
    """Models x data x methods x metrics into a folder: killed at any moment, the same command goes on."""
    from noiser.commands.output import Output
    from noiser.commands.run import FORMATS, carry_out, how_to_run, wanted_plan
    from noiser.commands.run import dry_run as only_say

    given = {"models": models, "data": data, "methods": methods, "metrics": metrics, "controls": controls, "limit": limit}
    given |= {"judges": judge, "generate": generate, "seed": seed, "revision": revision, "dtype": dtype, "attention": attention}
    given |= {"trust_remote_code": trust_remote_code or None, "allow_pickle": allow_pickle or None}
    how = how_to_run(
        device=device, device_map=device_map, token_budget=token_budget, at_once=at_once, shard=shard, max_seconds=max_seconds,
        timeout=timeout, max_errors=max_errors, retry=retry, engine=engine, address=address, workers=workers,
        judge_how=judge_how(judge_url, judge_cache, judge_at_once, judge_timeout, judge_budget, device),
    )  # fmt: skip
    wanted = wanted_plan(plan, given)
    if dry_run:
        raise typer.Exit(only_say(wanted, out, how, Output.checked(format_, None, FORMATS)))
    raise typer.Exit(carry_out(wanted, out, how))


def status(
    folder: Folder,
    format_: Annotated[str, typer.Option("--format", help="table, json.")] = "table",
    out: Out = None,
) -> None:
    """How a run stands: samples done, how its trials ended, what is damaged."""
    from noiser.commands.output import Output
    from noiser.commands.run import FORMATS
    from noiser.commands.run import status as show

    raise typer.Exit(show(folder, Output.checked(format_, out, FORMATS)))


def report(
    folder: Folder,
    format_: Annotated[str, typer.Option("--format", help="md, html (one file, plots inside), latex.")] = "md",
    out: Out = None,
    figures: Annotated[Path | None, typer.Option(help="A folder for the plots as SVG and PNG. (default: beside --out)")] = None,
    timings: Annotated[bool, typer.Option("--timings/--no-timings", help="With seconds; without, the bytes depend on no clock.")] = True,
    samples: Annotated[int, typer.Option(min=0, help="How many samples an HTML report shows with all their scores.")] = 10,
) -> None:
    """Tables and figures of a run, beside the paper's, with intervals and what differs."""
    from noiser.commands.output import Output
    from noiser.commands.report import FORMATS
    from noiser.commands.report import run as write

    raise typer.Exit(write(folder, Output.checked(format_, out, FORMATS), figures, timings=timings, samples=samples))


def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of one run.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder, or one of the same run.")],
) -> None:
    """Folders of one run, filled on different machines, into one; every trial once."""
    from noiser.commands.report import combine

    raise typer.Exit(combine(folders, out))


def export(
    folder: Folder,
    to: Annotated[str, typer.Option(help="parquet, csv, jsonl.")] = "parquet",
    what: Annotated[str, typer.Option(help="values: a row a trial; scores: a row a token.")] = "values",
    out: Out = None,
) -> None:
    """A run's records as a flat table."""
    from noiser.commands.report import flat

    raise typer.Exit(flat(folder, what, to, out))


def reproduce(
    name: Annotated[str, typer.Argument(help="table1, 2, 3, 5, 6, 7, figure2, 3, 4.", show_default=False)],
    model: Annotated[str, typer.Option(help="smollm2-135m, a hub id, a folder, or a GGUF file.")] = "smollm2-135m",
    data: Annotated[str | None, typer.Option(help="Sets instead of the published ones, or where these are: known:path=FILE.")] = None,
    limit: Limit = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. (default: one in runs/, named by what is run)")] = None,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    judge: Judges = None,
    judge_url: JudgeUrl = None,
    judge_cache: JudgeCache = "use",
    judge_at_once: JudgeAtOnce = 8,
    judge_timeout: JudgeTimeout = 60.0,
    judge_budget: JudgeBudget = 300.0,
    format_: Annotated[str, typer.Option("--format", help="md, html, latex.")] = "md",
    max_seconds: MaxSeconds = None,
    timeout: Timeout = None,
    at_once: AtOnce = 1,
    shard: ShardOption = None,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    device: RunDevice = "auto",
    device_map: DeviceMap = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    token_budget: TokenBudget = None,
) -> None:
    """A table or figure of the paper: plan, run and report in one command, resumed by the same command."""
    from noiser.commands.output import Output
    from noiser.commands.report import FORMATS
    from noiser.commands.reproduce import reproduce as make
    from noiser.commands.run import how_to_run
    from noiser.commands.wanted import read_judges

    how = how_to_run(
        device=device, device_map=device_map, token_budget=token_budget, at_once=at_once, shard=shard, max_seconds=max_seconds,
        timeout=timeout, engine=engine, address=address, workers=workers,
        judge_how=judge_how(judge_url, judge_cache, judge_at_once, judge_timeout, judge_budget, device),
    )  # fmt: skip
    chosen = {"name": model, "dtype": dtype, "trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
    sets = [each.strip() for each in (data or "").split(",") if each.strip()]
    written = Output.checked(format_, None, FORMATS)
    raise typer.Exit(make(name, chosen | {"revision": revision}, (sets, read_judges(judge)), (limit, seed), how, out, written))
