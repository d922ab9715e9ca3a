"""Sanity checks in a terminal: checks by methods, and in words what did not pass."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from noiser.results.sanity import Checkup, Verdict
from noiser.views.escape import visible
from noiser.views.terminal.attribution import plain

STYLES = {"pass": "green", "fail": "bold red", "not applicable": "dim"}
MARKS = {"pass": "\u2713 pass", "fail": "\u2717 fail", "not applicable": "\u2013 n.a."}


def to_text(checkup: Checkup, width: int = 120) -> str:
    """The checkup without colour, as `print` shows it."""
    return plain(render_checkup(checkup), width)


def render_checkup(checkup: Checkup) -> RenderableType:
    """Checks by methods with their figures; what each check wants; what did not pass, and why."""
    verdicts = {(each.check, each.method): each for each in checkup.verdicts}
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("")
    for method in checkup.methods:
        grid.add_column(Text(visible(method)), overflow="fold")
    for name in checkup.checks:
        grid.add_row(name, *(_cell(verdicts[name, method]) for method in checkup.methods))
    wants = Table.grid(padding=(0, 2))
    for name, sentence in checkup.checks.items():
        wants.add_row(Text(name, style="dim"), Text(sentence, style="dim"))
    counts = ", ".join(f"{count} {outcome}" for outcome, count in checkup.outcomes.items())
    rest = [
        Text(f"{MARKS[each.outcome][0]} {each.check}, {visible(each.method)}: {visible(each.said)}", style=STYLES[each.outcome])
        for each in checkup.verdicts
        if each.outcome != "pass"
    ]
    return Group(Text(visible(checkup.model), style="bold"), Text(), grid, Text(), wants, Text(), *rest, Text(counts))


def _cell(verdict: Verdict) -> Text:
    figure = "" if verdict.figure is None else f" {verdict.figure:.2g}"
    return Text.assemble((MARKS[verdict.outcome], STYLES[verdict.outcome]), (figure, "dim"))
