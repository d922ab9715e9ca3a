"""Checks in a terminal: of methods, with a sentence for each check that did not pass, and of metrics."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from noiser.results.sanity import Checkup, MetricCheckup, Verdict
from noiser.views.labels import visible
from noiser.views.terminal.attribution import plain_text
from noiser.views.terminal.evaluation import format_number

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


def metrics_to_text(checkup: MetricCheckup, width: int = 120) -> str:
    """The checks of metrics without colour, as `print` shows them."""
    return plain_text(render_metric_checkup(checkup), width)


def render_metric_checkup(checkup: MetricCheckup) -> RenderableType:
    """Metrics on the ladder and on the models built by hand, what that means, then methods on those models."""
    ladder = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("", "ladder", "ends", *checkup.circuits):
        ladder.add_column(Text(heading), overflow="fold")
    for verdict in checkup.verdicts:
        numbers = [format_number(number) for number in (verdict.ladder, verdict.ends)]
        style = "" if verdict.orders else "yellow"
        ladder.add_row(Text(visible(verdict.metric), style=style), *numbers, *map(_share, verdict.circuits.values()))
    methods = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("AUROC", *checkup.circuits):
        methods.add_column(Text(heading))
    for method, aurocs in checkup.aurocs.items():
        methods.add_row(Text(visible(method)), *map(_share, aurocs.values()))
    sentences = [
        f"ladder: scores of {visible(checkup.ladder)} with 0, 25, 50, 75, 100 % noise; how often less noise is above more (0.5 is chance)",
        "ends: the same for 0 and 100 %; then how often the metric prefers the tokens that decide, on models built by hand:",
        *(f"  {name}: {sentence}" for name, sentence in checkup.circuits.items()),
        "AUROC: how surely a method's scores of the tokens that decide are above the others'",
    ]
    missing = [(verdict.metric, verdict.reason) for verdict in checkup.verdicts if verdict.reason]
    return Group(
        Text(f"{visible(checkup.model)}, {checkup.prompts} prompts", style="bold"),
        Text(),
        ladder,
        Text(),
        *(Text(f"{visible(each.metric)} {each.said}", style="" if each.orders else "yellow") for each in checkup.verdicts),
        *(Text(f"! {visible(metric)}: {visible(reason)}", style="yellow") for metric, reason in missing),
        Text(),
        methods,
        Text(),
        *(Text(sentence, style="dim") for sentence in sentences),
    )


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
