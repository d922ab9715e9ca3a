"""`noiser serve`: the web app."""

from typing import Annotated

import typer

from noiser.cli.options import (
    AllowPickle,
    Attention,
    Device,
    Dtype,
    Model,
    Revision,
    TokenBudget,
    TrustRemoteCode,
    loading,
)


def serve(
    model: Model = "smollm2-135m",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    host: Annotated[str, typer.Option(help="Any but this machine's own needs a token: NOISER_TOKEN, else one is made.")] = "127.0.0.1",
    allowed_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:PORT]", help="A name under which it is reached; may be repeated.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a prompt with its continuation.")] = 2048,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; one is answered at a time.")] = 16,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention: Attention = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    token_budget: TokenBudget = None,
) -> None:
    """The web app: ask in a browser, and look at the answers. It listens on this machine only, unless told otherwise."""
    from noiser.commands.serve import Wanted, run

    loaded = loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    run(model, loaded, Wanted(host, port, allowed_host or [], max_tokens, queue))
