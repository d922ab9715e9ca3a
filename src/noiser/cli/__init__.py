"""The command line. torch and transformers are imported by the commands, so that --help is there at once."""

import os
import sys
from typing import Annotated

import typer

from noiser._version import __version__
from noiser.cli.answer import answer
from noiser.cli.data import data
from noiser.cli.explain import attribute, compare, methods
from noiser.cli.judge import check, evaluate
from noiser.cli.runs import export, merge, report, reproduce, run, status
from noiser.cli.serve import serve
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


for command in (attribute, compare, answer, evaluate, check, methods, run, status, report, merge, export, reproduce, serve):
    app.command()(command)
app.add_typer(data, name="data")
