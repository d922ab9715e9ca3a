"""Several methods in a terminal: aligned rows, how far they agree, and what each took."""

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from noiser.results.attribution import Comparison
from noiser.views.escape import visible
from noiser.views.labels import number, shown, strongest
from noiser.views.terminal.attribution import MOST_BARS, line, plain, question, score_table, taken, warnings


def to_text(comparison: Comparison, width: int = 120) -> str:
    """The comparison without colour, as `print` shows it."""
    return plain(render_comparison(comparison), width)


def render_comparison(comparison: Comparison, normalization: str = "none", by: str | None = None) -> RenderableType:
    """For each target the prompt once a method, and the scores in columns; then agreement, costs and warnings."""
    first = comparison.attributions[0]
    by = by or (first.unit if len({each.unit for each in comparison.attributions}) == 1 else "token")
    blocks: list[RenderableType] = []
    for row, target in enumerate(first.targets):
        blocks += [question(target, first.model), Text(), _rows(comparison, row, by, normalization), Text()]
        blocks += [_scores(comparison, row, by, normalization), Text()]
    if by != "token" and normalization == "none":
        rests = [f"{each.label} {', '.join(map(number, each.by(by).rest))}" for each in comparison.attributions if each.by(by).rest.any()]
        blocks += [Text(f"in no {by}: {'; '.join(rests)}", style="dim"), Text()] if rests else []
    if normalization != "none":
        blocks += [Text(f"scores after {normalization}", style="dim"), Text()]
    failed = [Text(f"! {name} failed: {visible(message)}", style="red") for name, message in comparison.failures.items()]
    return Group(*blocks, _agreement(comparison), Text(), _costs(comparison), *warnings(comparison), *failed)


def _rows(comparison: Comparison, row: int, by: str, normalization: str) -> Table:
    table = Table.grid(padding=(0, 1))
    for each in comparison.attributions:
        table.add_row(Text(each.label, style="dim"), line(each, shown(each, by, normalization), row))
    return table


def _scores(comparison: Comparison, row: int, by: str, normalization: str) -> Table:
    each = [shown(one, by, normalization) for one in comparison.attributions]
    scores = np.stack([one.scores[row] for one in each])
    seen = comparison.attributions[0].targets[row].context or len(each[0].of)
    names = [one.label for one in comparison.attributions]
    chosen = [index for index in strongest(scores, MOST_BARS) if each[0].of.index(index) < seen]
    return score_table(each[0], chosen, names, scores, [seen] * len(names))


def _agreement(comparison: Comparison) -> Table:
    """Each two methods: rank correlation, and how many of the three highest tokens they share."""
    names = [each.label for each in comparison.attributions]
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("over tokens: Spearman \u00b7 share of the top 3 in common", style="dim")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for name, correlations, overlaps in zip(names, comparison.spearman, comparison.top_overlap, strict=True):
        cells = [f"{_or_none(r, '+.2f')} \u00b7 {_or_none(top, '.2f')}" for r, top in zip(correlations, overlaps, strict=True)]
        table.add_row(name, *cells)
    return table


def _or_none(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)


def _costs(comparison: Comparison) -> Table:
    table = Table.grid(padding=(0, 2))
    for each in comparison.attributions:
        table.add_row(Text(each.label), Text(" \u00b7 ".join(taken(each.cost)), style="dim"))
    return table
