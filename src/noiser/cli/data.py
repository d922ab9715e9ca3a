"""`noiser data`: which data sets there are, and how many of their prompts a model answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from noiser.cli.inputs import say_notes, split_commas
from noiser.cli.options import WHAT, Command, FieldNames, ModelOptions, Out, expand_options, format_option
from noiser.cli.outputs import Output, console
from noiser.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Group

    from noiser.data import Dataset, Match
    from noiser.experiments.screening import ScreenedRow

FORMATS = ("table", "json")
DATA_HELP = "Data sets, separated by commas: known-mini, known:path=FILE, a file of your own (.jsonl, .json, .csv, ...)."

app = typer.Typer(no_args_is_help=True, help="Data sets: which there are, and how many of their prompts a model answers.")


@app.command("list", cls=Command)
@expand_options
def list_(format_: Annotated[str, format_option("table, json.")] = "table", out: Out = None) -> None:
    """List all data sets, and where each was found."""
    list_sets(Output.checked(format_, out, FORMATS))


@app.command(cls=Command)
@expand_options
def stats(
    *,
    data: Annotated[str, typer.Option(help=DATA_HELP, rich_help_panel=WHAT)] = "known-mini,longra-mini,wikibio-mini",
    match: Annotated[
        str | None,
        typer.Option(
            help="When the model answers a prompt: its next token (token) or word (word) is the target; none: always. "
            "(default: as the set says)",
            rich_help_panel=WHAT,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Use only the first N rows of each set.", rich_help_panel=WHAT)
    ] = None,
    fields: FieldNames = None,
    model: ModelOptions,
    format_: Annotated[str, format_option("table, json.")] = "table",
    out: Out = None,
) -> None:
    """How many prompts does a model answer, in each group? The paper's table 7."""
    raise typer.Exit(run_stats(model, StatsArgs.checked(split_commas(data), match, limit, fields), Output.checked(format_, out, FORMATS)))


@dataclass(frozen=True)
class StatsArgs:
    """Which data sets are counted, read and checked before the model is loaded."""

    sets: "Sequence[Dataset]"
    match: str | None
    """When a prompt counts as answered; None: the rule of each set."""
    limit: int | None
    """Only the first rows of each set, so many."""

    @classmethod
    def checked(cls, labels: Sequence[str], match: str | None = None, limit: int | None = None, fields: str | None = None) -> "StatsArgs":
        """The data sets of labels such as `known:path=FILE`. Raises OptionError for what does not exist or fit."""
        from noiser.data import MATCHES, SETS, read_labelled

        if not labels:
            raise OptionError(f"--data wants at least one set: {', '.join(SETS)}")
        if limit is not None and limit < 1:
            raise OptionError(f"--limit wants a number of rows from 1 on; got {limit}")
        if match is not None and match not in MATCHES:
            raise OptionError(f"--match must be one of {', '.join(MATCHES)}; got {match!r}")
        return cls([read_labelled(label, fields) for label in labels], match, limit)

    def rule(self, data: "Dataset") -> "Match":
        """When a prompt of this set counts as answered."""
        return cast("Match", self.match or data.match)


def run_stats(model: ModelOptions, arguments: StatsArgs, output: Output) -> int:
    """For each set and each of its groups: the number of rows, and how many of them the model answers.

    The exit status is 1 if a row cannot be read.
    """
    from noiser.cli.progress import loaded_model
    from noiser.data import unreadable_lines
    from noiser.experiments.screening import screen

    say_notes(f"{data.source}: {remark}" for data in arguments.sets for remark in data.remarks)
    rows = {index: data.rows[: arguments.limit] for index, data in enumerate(arguments.sets)}
    with loaded_model(model, sum(map(len, rows.values()))) as (lm, progress):
        counts = []
        for index, data in enumerate(arguments.sets):
            rule = arguments.rule(data)
            counts.append(_count(data, rule, list(screen(lm, rows[index], rule, on_row=lambda _: progress.advance()))))
    with output.open() as sink:
        if output.format == "json":
            output.write_json({"schema": 1, "model": lm.name, "revision": lm.revision, "data": counts}, sink)
        else:
            console(sink).print(_stats_table(lm.name, counts))
    for count in counts:
        say_notes(unreadable_lines(count["source"], count["unreadable"], count["rows"]))
    return 1 if any(count["unreadable"] for count in counts) else 0


def list_sets(output: Output) -> None:
    """Each data set: its name, what it is, its number of rows, and where it was found."""
    from noiser.data import SETS, present, read

    records = [
        {
            "name": info.name,
            "what": info.what,
            "rows": len(read(info.name).rows) if info.shipped else info.published,
            "match": info.match,
            "generate": info.generate,
            "where": present(info),
        }
        for info in SETS.values()
    ]
    with output.open() as sink:
        if output.format == "json":
            output.write_json({"schema": 1, "data": records}, sink)
        else:
            console(sink).print(_listing(records))


def _count(data: "Dataset", match: "Match", rows: "Sequence[ScreenedRow]") -> dict[str, Any]:
    """The counts as plain values. The reasons and the answered rows add up to all rows."""
    reasons = Counter("unreadable" if _is_unreadable(row) else row.reason for row in rows if not row.answered)
    groups = sorted({row.row.group for row in rows if row.row.group is not None})
    return {
        "name": data.name,
        "source": data.source,
        "sha256": data.sha256,
        "complete": data.complete,
        "match": match,
        **_share(rows),
        "reasons": dict(reasons),
        "unreadable": [row.reason if row.row.error else f"row {row.row.id}: {row.reason}" for row in rows if _is_unreadable(row)],
        "groups": [{"group": group, **_share([row for row in rows if row.row.group == group])} for group in groups],
    }


def _is_unreadable(row: "ScreenedRow") -> bool:
    """Whether the model could not even be asked: a wrong line, a prompt that is too long."""
    from noiser.experiments.schema import NO_TARGET, NONFINITE, OOM, OTHER_ANSWER

    return not row.answered and row.reason not in (NO_TARGET, NONFINITE, OOM, OTHER_ANSWER)


def _share(rows: "Sequence[ScreenedRow]") -> dict[str, Any]:
    """The number of rows and of answered rows, and the share with Wilson's 95 % interval."""
    from noiser.results.statistics import wilson

    answered = sum(row.answered for row in rows)
    low, high = wilson(answered, len(rows))
    return {"rows": len(rows), "answered": answered, "share": answered / len(rows), "low": float(low), "high": float(high)}


def _stats_table(model: str, counts: Sequence[Mapping[str, Any]]) -> "Group":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from noiser.views.labels import visible

    table = Table(title=Text(f"Rows that {visible(model)} answers"), box=None, title_justify="left")
    for heading in ("data", "group", "rows", "answered", "share", "95 % interval"):
        table.add_column(heading, justify="left" if heading in ("data", "group") else "right")
    for count in counts:
        name = visible(count["name"])
        for group in count["groups"]:
            table.add_row(Text(name), *_cells(group))
            name = ""
        table.add_row(Text(name), *_cells({**count, "group": "all"}), style="bold")
        table.add_section()
    return Group(table, *(Text(_remark(count), style="dim") for count in counts))


def _cells(count: Mapping[str, Any]) -> tuple[Any, ...]:
    from rich.text import Text

    from noiser.views.labels import visible

    interval = f"{count['low']:.1%} to {count['high']:.1%}"
    return Text(visible(count["group"])), f"{count['rows']:,}", f"{count['answered']:,}", f"{count['share']:.1%}", interval


def _remark(count: Mapping[str, Any]) -> str:
    from noiser.views.labels import visible

    reasons = ", ".join(f"{number:,} {reason}" for reason, number in count["reasons"].items()) or "none"
    return f"{visible(count['name'])} ({visible(count['source'])}): match={count['match']}; not answered: {reasons}"


def _listing(records: Sequence[Mapping[str, Any]]) -> "Group":
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    blocks: list[Any] = []
    for record in records:
        rows = "" if record["rows"] is None else f"  {record['rows']:,} rows"
        blocks.append(Text.assemble((record["name"], "bold"), rows, (f"  {record['where']}", "dim")))
        blocks.append(Padding(Text(record["what"]), (0, 0, 0, 4)))
    return Group(*blocks)
