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


@app.command()
def attribute(
    text: Annotated[str | None, typer.Argument(help="The prompt.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="smollm2-135m, a hub id, a folder, or a GGUF file.")] = "smollm2-135m",
    method: Annotated[str, typer.Option(help="How to attribute.")] = "noiser",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the method, e.g. samples=20; may be repeated.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The next token to explain, with its space, or id:N. (default: the model's own)")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of what the method draws at random. (default: 0)")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    normalize: Annotated[str, typer.Option(help="none, clip_l1, abs_l1, softmax, minmax, signed_sum.")] = "none",
    format_: Annotated[str | None, typer.Option("--format", help="heatmap, json, jsonl. (default: heatmap; with --file jsonl)")] = None,
    file: Annotated[str | None, typer.Option(help="Prompts, one a line; - is standard input.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write there instead of to standard output.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights, which can run code.")] = False,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Tokens through the model at once. (default: what memory allows)")] = None,
) -> None:
    """Which words of a prompt made the model predict what it predicted?"""
    from noiser.commands.attribute import Output, Wanted, run

    wanted = Wanted.checked(text, file, method, set_ or [], target, seed, normalize)
    output = Output.checked(format_, out, many=file is not None)
    load_options = {
        "revision": revision,
        "device": device,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
        "allow_pickle": allow_pickle,
        "token_budget": token_budget,
    }
    raise typer.Exit(run(model, load_options, wanted, output))


if __name__ == "__main__":
    main()
