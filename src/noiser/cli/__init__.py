"""The command line: one module for each command. Heavy imports stand inside functions, so that --help is fast."""

import os
import sys
from typing import Annotated

import typer

from noiser._version import __version__
from noiser.cli import (
    answer,
    attribute,
    check,
    cite,
    compare,
    data,
    evaluate,
    interactions,
    load,
    methods,
    report,
    reproduce,
    run,
    serve,
    status,
)
from noiser.cli.options import Command
from noiser.errors import NoiserError, OptionError
from noiser.lm.spinning import wait_passively

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
COMMANDS = {
    "Explain": (attribute.attribute, compare.compare, cite.cite, interactions.interactions, load.load, serve.serve),
    "Evaluate": (evaluate.evaluate, check.check, answer.answer),
    "Experiments": (run.run, status.status, report.report, report.merge, report.export, reproduce.reproduce),
    "Lists": (methods.methods,),
}
"""The commands, by their panel of --help."""

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=HELP_OPTIONS)


def main() -> None:
    """Run the command line. Errors of noiser are printed without a traceback: exit 2 for options, 1 for the others."""
    wait_passively(os.environ)
    try:
        app()
    except NoiserError as error:
        from noiser.views.labels import visible

        sys.stderr.write(f"Error: {visible(str(error))}\n")
        sys.exit(2 if isinstance(error, OptionError) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone: a second error would follow at exit
        sys.exit(1)
    except OSError as error:
        path = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"Error: cannot read or write: {path}{error.strerror or error}\n")
        sys.stdout = None  # what it still holds cannot be written either
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_version(requested: bool) -> bool:
    if requested:
        typer.echo(f"noiser {__version__}")
        raise typer.Exit
    return requested


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")]


@app.callback()
def noiser(version: Version = False) -> None:
    """Why did the model say that? Explain a language model's prediction by the input tokens that caused it."""


for _panel, _commands in COMMANDS.items():
    for _command in _commands:
        app.command(cls=Command, rich_help_panel=_panel)(_command)
app.add_typer(data.app, name="data", rich_help_panel="Lists")
