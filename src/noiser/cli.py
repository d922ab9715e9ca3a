"""The command line. torch and transformers are imported by the commands, so that --help is there at once."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from noiser import __version__
from noiser.errors import NoiserError, OptionError

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=HELP)


def main() -> None:
    """Run the command line. Noiser's own errors are printed without a traceback: exit 2 for options, 1 for the rest."""
    try:
        app()
    except NoiserError as error:
        from noiser.views.escape import visible

        sys.stderr.write(f"Error: {visible(str(error))}\n")
        sys.exit(2 if isinstance(error, OptionError) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has left; exit without a second error
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"Error: cannot read or write: {where}{error.strerror or error}\n")
        sys.stdout = None  # what it still holds cannot be written either
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"noiser {__version__}")
        raise typer.Exit
    return wanted


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]


@app.callback()
def noiser(version: Version = False) -> None:
    """Why did the model say that? Explain a language model's prediction by the input tokens that caused it."""


Text_ = Annotated[str | None, typer.Argument(help="The prompt.", show_default=False)]
Messages = Annotated[str | None, typer.Option(help='A chat instead: a JSON file [{"role": ..., "content": ...}]; - is standard input.')]
Model = Annotated[str, typer.Option(help="smollm2-135m, a hub id, a folder, or a GGUF file.")]
Seed = Annotated[int | None, typer.Option(help="Seed of what the method draws at random. (default: 0)")]
Target = Annotated[
    str | None, typer.Option(help="What to explain, with its leading space, or id:N: one token or several. (default: the model's own)")
]
Foil = Annotated[str | None, typer.Option(help="Why the target and not this?")]
Continuation = Annotated[str | None, typer.Option(help="A text that follows: each of its tokens is explained by all before it.")]
Generate = Annotated[int | None, typer.Option(min=1, help="The same for so many tokens of the model's own, greedy.")]
Span = Annotated[str | None, typer.Option(metavar="FROM:TO", help="These tokens of the continuation as a whole, counted from 0.")]
Quantity = Annotated[str | None, typer.Option(help="prob, log_prob, mean_prob; with --foil prob or log_odds.")]
By = Annotated[str | None, typer.Option(help="Scores summed over: token, word, sentence, line, turn.")]
Normalize = Annotated[str, typer.Option(help="none, clip_l1, abs_l1, softmax, minmax, signed_sum.")]
Out = Annotated[Path | None, typer.Option(help="Write there instead of to standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
Attention = Annotated[str | None, typer.Option(help="How transformers computes attention, e.g. eager. (default: its own choice)")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights, which can run code.")]
TokenBudget = Annotated[int | None, typer.Option(min=1, help="Tokens through the model at once. (default: what memory allows)")]


@app.command()
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
    format_: Annotated[str | None, typer.Option("--format", help="heatmap, json, jsonl. (default: heatmap; with --file jsonl)")] = None,
    out: Out = None,
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
    wanted = Wanted.checked((text, messages, file), method, set_ or [], asked, seed, (normalize, by))
    written = output(format_, out, many=file is not None)
    loading = _loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    raise typer.Exit(run(model, loading, wanted, written))


@app.command()
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
    format_: Annotated[str, typer.Option("--format", help="heatmap, json.")] = "heatmap",
    out: Out = None,
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
    from noiser.commands.output import Output
    from noiser.commands.wanted import Asked

    asked = Asked(target, foil, continuation, generate, span, quantity)
    wanted = Wanted.checked((text, messages), methods, set_ or [], asked, seed, (normalize, by))
    written = Output.checked(format_, out, FORMATS)
    loading = _loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    raise typer.Exit(run(model, loading, wanted, written))


@app.command()
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
    wanted = Wanted.checked(prompts, (methods, controls, metrics), set_ or [], shared, (limit, generate, seed), plots)
    loading = _loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    raise typer.Exit(run(model, loading, wanted, written))


@app.command()
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
    loading = _loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    raise typer.Exit(run(model, loading, wanted, written))


@app.command()
def methods(
    format_: Annotated[str, typer.Option("--format", help="table, json.")] = "table",
    out: Out = None,
) -> None:
    """Every method: what it computes, its options with their defaults, what it costs, where it comes from."""
    from noiser.commands.methods import FORMATS, run
    from noiser.commands.output import Output

    raise typer.Exit(run(Output.checked(format_, out, FORMATS)))


def _loading(
    revision: str | None,
    device: str,
    dtype: str,
    attention: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    token_budget: int | None,
) -> dict[str, object]:
    return {
        "revision": revision,
        "device": device,
        "dtype": dtype,
        "attention": attention,
        "trust_remote_code": trust_remote_code,
        "allow_pickle": allow_pickle,
        "token_budget": token_budget,
    }


if __name__ == "__main__":
    main()
