"""Sanity checks in a terminal: a table of checks by methods, and a sentence for each check that did not pass."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from noiser.results.sanity import Checkup, Verdict
from noiser.views.labels import visible
from noiser.views.terminal.attribution import plain_text

STYLES = {"pass": "green", "fail": "bold red", "not applicable": "dim"}
MARKS = {"pass": "\u2713 pass", "fail": "\u2717 fail", "not applicable": "\u2013 n.a."}


def to_text(checkup: Checkup, width: int = 120) -> str:
    """The checkup without colour, as `print` shows it."""
    return plain_text(render_checkup(checkup), width)


def render_checkup(checkup: Checkup) -> RenderableType:
    """Checks by methods with their figures, what each check expects, and why checks did not pass."""
    verdicts = {(verdict.check, verdict.method): verdict for verdict in checkup.verdicts}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    for method in checkup.methods:
        table.add_column(Text(visible(method)), overflow="fold")
    for check in checkup.checks:
        table.add_row(Text(check), *(_cell(verdicts[check, method]) for method in checkup.methods))
    expectations = Table.grid(padding=(0, 2))
    for check, sentence in checkup.checks.items():
        expectations.add_row(Text(check, style="dim"), Text(sentence, style="dim"))
    counts = ", ".join(f"{count} {outcome}" for outcome, count in checkup.outcomes.items())
    reasons = [_reason(verdict) for verdict in checkup.verdicts if verdict.outcome != "pass"]
    return Group(Text(visible(checkup.model), style="bold"), Text(), table, Text(), expectations, Text(), *reasons, Text(counts))


def _cell(verdict: Verdict) -> Text:
    figure = "" if verdict.figure is None else f" {verdict.figure:.2g}"
    return Text.assemble((MARKS[verdict.outcome], STYLES[verdict.outcome]), (figure, "dim"))


def _reason(verdict: Verdict) -> Text:
    mark = MARKS[verdict.outcome][0]
    return Text(f"{mark} {verdict.check}, {visible(verdict.method)}: {visible(verdict.said)}", style=STYLES[verdict.outcome])
