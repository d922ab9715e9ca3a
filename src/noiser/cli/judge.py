"""`noiser evaluate`, `noiser check`: how far can an explanation be trusted?"""

from pathlib import Path
from typing import Annotated

import typer

from noiser.cli.judge_options import JudgeAtOnce, JudgeBudget, JudgeCache, Judges, JudgeTimeout, JudgeUrl, judge_how
from noiser.cli.options import AllowPickle, Attention, Device, Dtype, Model, Out, Revision, TokenBudget, TrustRemoteCode, loading


def evaluate(
    prompts: Annotated[
        str | None, typer.Option(help="One a line, or a .jsonl file: prompt, target, id, group; - is standard input.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Names, separated by commas; noiser:bound=l2+steps=5 carries options.")] = (
        "noiser,occlusion,integrated_gradients"
    ),
    metrics: Annotated[str, typer.Option(help="Names likewise; --list explains them.")] = "soft_ns,soft_nc",
    model: Model = "smollm2-135m",
    protocol: Annotated[str | None, typer.Option(help="matched, proportional, paper, official. (default: matched)")] = None,
    masks: Annotated[int | None, typer.Option(min=1, help="Random masks of the soft metrics. (default: 16)")] = None,
    controls: Annotated[str, typer.Option(help="Rows that know nothing of the model; permuted:NAME for another's.")] = (
        "random,uniform,constant,recency,permuted"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    generate: Annotated[int | None, typer.Option(min=1, help="Judge so many tokens of the model's own continuation.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[NAME.]OPTION=VALUE", help="An option of a method or metric, or of all that have it; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    judge: Judges = None,
    judge_url: JudgeUrl = None,
    judge_cache: JudgeCache = "use",
    judge_at_once: JudgeAtOnce = 8,
    judge_timeout: JudgeTimeout = 60.0,
    judge_budget: JudgeBudget = 300.0,
    list_: Annotated[bool, typer.Option("--list", help="What each metric measures, and what fools it.")] = False,
    plots: Annotated[Path | None, typer.Option(help="A folder for a plot of each metric, as SVG and PNG.")] = None,
    format_: Annotated[str, typer.Option("--format", help="table, json.")] = "table",
    out: Out = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention: Attention = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    token_budget: TokenBudget = None,
) -> None:
    """How far can each method be trusted on this model? Faithfulness with intervals, beside controls."""
    from noiser.commands.evaluate import FORMATS, Wanted, explain, run
    from noiser.commands.output import Output

    written = Output.checked(format_, out, FORMATS)
    if list_:
        raise typer.Exit(explain(written))
    shared = {"protocol": protocol, "masks": masks}
    judging = judge, judge_how(judge_url, judge_cache, judge_at_once, judge_timeout, judge_budget, device)
    wanted = Wanted.checked(prompts, (methods, controls, metrics), set_ or [], shared, (limit, generate, seed), plots, judging)
    loaded = loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    raise typer.Exit(run(model, loaded, wanted, written))


def check(
    methods: Annotated[str, typer.Option(help="Names, separated by commas; noiser:bound=l2+steps=5 carries options.")] = (
        "noiser,occlusion,integrated_gradients"
    ),
    model: Model = "smollm2-135m",
    prompts: Annotated[str | None, typer.Option(help="Prompts to check on, one a line. (default: four of our own)")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="[NAME.]OPTION=VALUE", help="An option of one method, or of all that have it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    format_: Annotated[str, typer.Option("--format", help="table, json.")] = "table",
    out: Out = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention: Attention = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    token_budget: TokenBudget = None,
) -> None:
    """Sanity checks: what any attribution has to pass, on your model and on models whose answer is known."""
    from noiser.commands.check import FORMATS, Wanted, run
    from noiser.commands.output import Output

    wanted = Wanted.checked(methods, set_ or [], prompts, seed)
    written = Output.checked(format_, out, FORMATS)
    loaded = loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    raise typer.Exit(run(model, loaded, wanted, written))
