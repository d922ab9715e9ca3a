"""`noiser data`: what prompts there are, and which of them a model answers."""

from typing import Annotated

import typer

from noiser.cli.options import AllowPickle, Attention, Device, Dtype, Model, Out, Revision, TokenBudget, TrustRemoteCode, loading

data = typer.Typer(no_args_is_help=True, help="Data sets: what there is, and how much of it a model answers.")
Format = Annotated[str, typer.Option("--format", help="table, json.")]


@data.command("list")
def list_(format_: Format = "table", out: Out = None) -> None:
    """Every data set, and where it was found."""
    from noiser.commands.data import FORMATS, list_sets
    from noiser.commands.output import Output

    raise typer.Exit(list_sets(Output.checked(format_, out, FORMATS)))


@data.command()
def stats(
    data: Annotated[str, typer.Option(help="Sets, separated by commas: known-mini, known:path=FILE, a .jsonl file.")] = (
        "known-mini,longra-mini,wikibio-mini"
    ),
    model: Model = "smollm2-135m",
    match: Annotated[str | None, typer.Option(help="When a prompt counts as answered: token, word, none. (default: the set's)")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows of each set.")] = None,
    format_: Format = "table",
    out: Out = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention: Attention = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    token_budget: TokenBudget = None,
) -> None:
    """How many prompts does a model answer, in each group? The paper's table 7."""
    from noiser.commands.data import FORMATS, run_stats
    from noiser.commands.output import Output

    written = Output.checked(format_, out, FORMATS)
    names = [each.strip() for each in data.split(",") if each.strip()]
    loaded = loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    raise typer.Exit(run_stats(model, loaded, names, match, limit, written))
