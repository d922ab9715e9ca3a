"""Options shared by commands: dataclasses become options, old names work and say so, each command's help fits its purpose.

Mutants caught: the value of an old name dropped; the note left out, or written to standard output; an old name in the help; a field
of a dataclass that does not reach the command; the panel `Advanced` before another one; an option without a panel.
"""

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from noiser import cli
from noiser.cli import options
from noiser.cli.options import ADVANCED, PANELS, RENAMED, Command, JudgeOptions, expand_options
from noiser.cli.outputs import DisplayOptions
from noiser.cli.run import ExecutionOptions
from noiser.errors import OptionError

COMMANDS = {command.__name__: command for commands in cli.COMMANDS.values() for command in commands}


@dataclass(frozen=True, kw_only=True)
class Group:
    granularity: Annotated[str | None, typer.Option(help="Sum.", rich_help_panel=ADVANCED)] = None
    max_samples: Annotated[int, typer.Option(min=1, help="Together.", rich_help_panel=ADVANCED)] = 1
    flag: Annotated[bool, typer.Option("--flag", help="A flag.", rich_help_panel=PANELS[0])] = False


@pytest.fixture
def called():
    """A command with a group of options, and what it was called with."""
    calls = []

    @expand_options
    def command(text: options.Prompt = None, *, group: Group, seed: options.Seed = 0) -> None:
        """What it does."""
        calls.append((text, group, seed))

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command(cls=Command)(command)

    def call(*words):
        calls.clear()
        ended = CliRunner().invoke(app, list(words))
        return ended, (calls or [None])[0]

    return call


def test_a_dataclass_becomes_options(called):
    assert called()[1] == (None, Group(), 0)
    assert called("a", "--granularity", "word", "--max-samples", "3", "--flag", "--seed", "7")[1] == (
        "a", Group(granularity="word", max_samples=3, flag=True), 7,
    )  # fmt: skip
    assert called("--max-samples", "0")[0].exit_code == 2


def test_an_old_name_works_and_says_once_on_standard_error_what_it_is_now(called):
    ended, values = called("--by", "word", "--at-once", "3")
    assert values == (None, Group(granularity="word", max_samples=3), 0)
    assert ended.stderr.splitlines() == [
        "Note: --by is now --granularity. The old name works for one release",
        "Note: --at-once is now --max-samples. The old name works for one release",
    ]
    assert ended.stdout == ""
    assert called("--granularity", "word")[0].stderr == ""


def test_both_names_are_an_error_and_the_old_one_has_the_same_range(called):
    ended, _ = called("--by", "word", "--granularity", "line")
    assert isinstance(ended.exception, OptionError)
    assert str(ended.exception) == "--by is the old name of --granularity: give --granularity only"
    assert called("--at-once", "0")[0].exit_code == 2


@pytest.mark.parametrize(
    ("name", "group", "value"),
    [
        ("granularity", DisplayOptions, "word"),
        ("max_samples", ExecutionOptions, "3"),
        ("time_limit", ExecutionOptions, "1.5"),
        ("fail_on_error", ExecutionOptions, "0.25"),
        ("judge_max_connections", JudgeOptions, "2"),
        ("judge_total_timeout", JudgeOptions, "9.5"),
    ],
)
def test_every_old_name_reaches_its_command(name, group, value):
    """On the real groups: an old name and the new name give the same."""
    assert name in RENAMED
    values = []

    @expand_options
    def command(*, group: group) -> None:
        values.append(group)

    app = typer.Typer()
    app.command(cls=Command)(command)
    old = CliRunner().invoke(app, [RENAMED[name], value])
    new = CliRunner().invoke(app, [f"--{name.replace('_', '-')}", value])
    assert (old.exit_code, new.exit_code) == (0, 0)
    assert values[0] == values[1] != group()
    assert (old.stderr.count("Note: "), new.stderr) == (1, "")
    assert str(getattr(values[0], name)) == value


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_panels_in_order_and_no_old_name(name):
    shown = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "200"}).stdout
    titles = [line.strip("\u256d\u2500\u256e ") for line in shown.splitlines() if line.startswith("\u256d")]
    order = [title for title in titles if title != "Arguments"]
    assert order == [panel for panel in PANELS if panel in order], "known panels only, in their order"
    assert order[-1] == ADVANCED
    assert not [old for old in RENAMED.values() if f"{old} " in shown]
    for option in inspect.signature(COMMANDS[name]).parameters.values():
        if not option.name.startswith("old_"):
            (info,) = option.annotation.__metadata__
            assert info.help.endswith((".", ")", "...")), option.name


def test_the_first_panel_of_attribute_is_enough_for_a_newcomer():
    parameters = inspect.signature(COMMANDS["attribute"]).parameters
    first = [name for name, option in parameters.items() if option.annotation.__metadata__[0].__dict__.get("rich_help_panel") == PANELS[0]]
    assert first == ["target", "foil", "continuation", "generate", "messages", "file"]
