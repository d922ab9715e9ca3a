"""`noiser data`: which sets there are, and how many of their rows a model answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from scipy.stats import binomtest

from noiser.commands.output import Output, console
from noiser.commands.progress import Watch, progress
from noiser.data import MATCHES, SETS, Dataset, Match, Row, present, read, read_labelled
from noiser.errors import OptionError
from noiser.experiments.screening import NO_TARGET, NONFINITE, OOM, OTHERWISE, Screened, screen
from noiser.lm.load import load
from noiser.lm.model import LanguageModel
from noiser.views.escape import visible

FORMATS = ("table", "json")
NAMED = (NO_TARGET, NONFINITE, OOM, OTHERWISE)
UNREADABLE = "unreadable"


def run_stats(
    model: str, load_options: Mapping[str, Any], data: Sequence[str], match: str | None, limit: int | None, output: Output
) -> int:
    """For each set and each of its groups: how many rows there are, and how many of them the model answers.

    data    labels, as `noiser.data.read_label_of_data` takes them; all are read before the model is.
    match   when a row counts as answered; each set's own rule by default.
    limit   only the first so many rows of each set.

    Raises OptionError for what does not exist or fit. The exit status is 0.
    """
    if not data:
        raise OptionError(f"--data wants at least one set: {', '.join(SETS)}")
    if limit is not None and limit < 1:
        raise OptionError(f"--limit wants a number of rows from 1 on; got {limit}")
    if match is not None and match not in MATCHES:
        raise OptionError(f"--match must be one of {', '.join(MATCHES)}; got {match!r}")
    sets = [read_labelled(label) for label in data]

    def rule(each: Dataset) -> Match:
        return cast(Match, match or each.match)

    with progress() as watch:
        watch.say(f"loading {model}")
        lm = load(model, **load_options)
        watch.follow(lm, sum(len(each.rows[:limit]) for each in sets))
        found = [_counted(each, rule(each), _screened(lm, each.rows[:limit], rule(each), watch)) for each in sets]
    with output.opened() as sink:
        if output.form == "json":
            output.write_json({"schema": 1, "model": lm.name, "revision": lm.revision, "data": found}, sink)
        else:
            console(sink).print(_table(lm.name, found))
    return 0


def list_sets(output: Output) -> int:
    """Every set: its name, what it is, how many rows it has, where it is found or that it is not here."""
    found = [
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
    with output.opened() as sink:
        if output.form == "json":
            output.write_json({"schema": 1, "data": found}, sink)
        else:
            console(sink).print(_listing(found))
    return 0


def _screened(lm: LanguageModel, rows: Sequence[Row], match: Match, watch: Watch) -> list[Screened]:
    return list(screen(lm, rows, match, on_row=lambda _: watch.advance()))


def _counted(data: Dataset, match: Match, found: Sequence[Screened]) -> dict[str, Any]:
    """The counts in plain values; the reasons and the answered rows add up to all rows."""
    groups = sorted({each.row.group for each in found if each.row.group is not None})
    by_group = {group: [each for each in found if each.row.group == group] for group in groups}
    reasons = Counter(each.reason if each.reason in NAMED else UNREADABLE for each in found if not each.answered)
    return {
        "name": data.name,
        "source": data.source,
        "sha256": data.sha256,
        "complete": data.complete,
        "match": match,
        **_share(found),
        "reasons": dict(reasons),
        "groups": [{"group": group, **_share(rows)} for group, rows in by_group.items()],
    }


def _share(found: Sequence[Screened]) -> dict[str, Any]:
    """How many, how many answered, and their share with Wilson's 95 % interval."""
    rows, answered = len(found), sum(each.answered for each in found)
    low, high = binomtest(answered, rows).proportion_ci(method="wilson")
    return {"rows": rows, "answered": answered, "share": answered / rows, "low": float(low), "high": float(high)}


def _table(model: str, found: Sequence[Mapping[str, Any]]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"Rows that {visible(model)} answers"), box=None, title_justify="left")
    for head in ("data", "group", "rows", "answered", "share", "95 % interval"):
        table.add_column(head, justify="left" if head in ("data", "group") else "right")
    remarks = []
    for each in found:
        lines = [*each["groups"], {**each, "group": "all"}]
        for place, line in enumerate(lines):
            numbers = (f"{line['rows']:,}", f"{line['answered']:,}", f"{line['share']:.1%}", f"{line['low']:.1%} to {line['high']:.1%}")
            style = "bold" if line["group"] == "all" and place == len(lines) - 1 else ""
            table.add_row(Text(visible(each["name"]) if place == 0 else ""), Text(visible(line["group"])), *numbers, style=style)
        table.add_section()
        said = "; ".join(f"{count:,} {reason}" for reason, count in each["reasons"].items()) or "none"
        remarks.append(
            Text(f"{visible(each['name'])} ({visible(each['source'])}): match={each['match']}; not answered: {said}", style="dim")
        )
    return Group(table, *remarks)


def _listing(found: Sequence[Mapping[str, Any]]) -> Any:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    blocks: list[Any] = []
    for each in found:
        rows = "" if each["rows"] is None else f"  {each['rows']:,} rows"
        blocks.append(Text.assemble((each["name"], "bold"), rows, (f"  {each['where']}", "dim")))
        blocks.append(Padding(Text(each["what"]), (0, 0, 0, 4)))
    return Group(*blocks)
