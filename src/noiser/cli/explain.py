"""`noiser attribute`, `noiser compare`, `noiser methods`: which tokens caused it?"""

from typing import Annotated

import typer

from noiser.cli.options import (
    AllowPickle,
    Attention,
    By,
    Continuation,
    Curves,
    Device,
    Dtype,
    Foil,
    Generate,
    Messages,
    Model,
    Normalize,
    Out,
    Quantity,
    Revision,
    Seed,
    Span,
    Target,
    Text_,
    TokenBudget,
    TrustRemoteCode,
    loading,
)

FORMS = "heatmap, json, jsonl, html, svg, png. (default: as --out ends; else heatmap, with --file jsonl)"


def attribute(
    text: Text_ = None,
    model: Model = "smollm2-135m",
    method: Annotated[str, typer.Option(help="How to attribute; noiser methods lists them.")] = "noiser",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the method, e.g. samples=20; may be repeated.")
    ] = None,
    target: Target = None,
    foil: Foil = None,
    continuation: Continuation = None,
    generate: Generate = None,
    span: Span = None,
    quantity: Quantity = None,
    seed: Seed = None,
    by: By = None,
    normalize: Normalize = "none",
    messages: Messages = None,
    file: Annotated[str | None, typer.Option(help="Prompts, one a line; - is standard input.")] = None,
    format_: Annotated[str | None, typer.Option("--format", help=FORMS)] = None,
    out: Out = None,
    curves: Curves = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention: Attention = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    token_budget: TokenBudget = None,
) -> None:
    """Which words of a prompt made the model predict what it predicted?"""
    from noiser.commands.attribute import Wanted, output, run
    from noiser.commands.wanted import Asked

    asked = Asked(target, foil, continuation, generate, span, quantity)
    wanted = Wanted.checked((text, messages, file), method, set_ or [], asked, seed, (normalize, by), curves)
    written = output(format_, out, many=file is not None)
    loaded = loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    raise typer.Exit(run(model, loaded, wanted, written))


def compare(
    text: Text_ = None,
    methods: Annotated[str, typer.Option(help="Names, separated by commas; noiser methods lists them.")] = (
        "noiser,occlusion,integrated_gradients"
    ),
    model: Model = "smollm2-135m",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[METHOD.]NAME=VALUE", help="An option of one method, or of all that have it; may be repeated."),
    ] = None,
    target: Target = None,
    foil: Foil = None,
    continuation: Continuation = None,
    generate: Generate = None,
    span: Span = None,
    quantity: Quantity = None,
    seed: Seed = None,
    by: By = None,
    normalize: Normalize = "none",
    messages: Messages = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="heatmap, json, html, svg, png. (default: as --out ends, else heatmap)")
    ] = None,
    out: Out = None,
    curves: Curves = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention: Attention = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    token_budget: TokenBudget = None,
) -> None:
    """Several methods on exactly the same tokens and target, how far they agree, and what each costs."""
    from noiser.commands.compare import FORMATS, Wanted, run
    from noiser.commands.output import Output, chosen_form
    from noiser.commands.wanted import Asked

    asked = Asked(target, foil, continuation, generate, span, quantity)
    wanted = Wanted.checked((text, messages), methods, set_ or [], asked, seed, (normalize, by), curves)
    written = Output.checked(chosen_form(format_, out, "heatmap", FORMATS), out, FORMATS)
    loaded = loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    raise typer.Exit(run(model, loaded, wanted, written))


def methods(
    format_: Annotated[str, typer.Option("--format", help="table, json.")] = "table",
    out: Out = None,
) -> None:
    """Every method: what it computes, its options with their defaults, what it costs, where it comes from."""
    from noiser.commands.methods import FORMATS, run
    from noiser.commands.output import Output

    raise typer.Exit(run(Output.checked(format_, out, FORMATS)))
