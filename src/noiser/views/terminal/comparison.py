"""Several methods in a terminal: aligned prompts, scores in columns, their agreement, and their costs."""

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from noiser.results.attribution import Comparison
from noiser.results.card import differences
from noiser.views.labels import format_score, labelled_scores, strongest, visible
from noiser.views.terminal.attribution import (
    MAX_BARS,
    coloured_prompt,
    cost_texts,
    interval_note,
    plain_text,
    question,
    score_table,
    warnings,
)


def to_text(comparison: Comparison, width: int = 120) -> str:
    """The comparison without colour, as `print` shows it."""
    return plain_text(render_comparison(comparison), width)


def render_comparison(comparison: Comparison, normalization: str = "none", by: str | None = None) -> RenderableType:
    """For each target the coloured prompt of each method, and the scores in columns; then agreement, costs, warnings and failures."""
    first = comparison.attributions[0]
    by = by or (first.unit if len({attribution.unit for attribution in comparison.attributions}) == 1 else "token")
    blocks: list[RenderableType] = []
    for row, target in enumerate(first.targets):
        blocks += [question(target, first.model), Text(), _prompts(comparison, row, by, normalization), Text()]
        blocks += [_scores(comparison, row, by, normalization), Text()]
    if by != "token" and normalization == "none":
        blocks += _rests(comparison, by)
    if normalization == "none" and (note := interval_note(comparison.attributions, ranks=False)):
        blocks += [*note, Text()]
    if normalization != "none":
        blocks += [Text(f"scores after {normalization}", style="dim"), Text()]
    failed = [Text(f"! {label} failed: {visible(message)}", style="red") for label, message in comparison.failures.items()]
    return Group(*blocks, _agreement(comparison), Text(), _costs(comparison), *warnings(comparison), *_differences(comparison), *failed)


def _prompts(comparison: Comparison, row: int, by: str, normalization: str) -> Table:
    table = Table.grid(padding=(0, 1))
    for attribution in comparison.attributions:
        prompt = coloured_prompt(attribution, labelled_scores(attribution, by, normalization), row)
        table.add_row(Text(attribution.label, style="dim"), prompt)
    return table


def _scores(comparison: Comparison, row: int, by: str, normalization: str) -> Table:
    tables = [labelled_scores(attribution, by, normalization) for attribution in comparison.attributions]
    scores = np.stack([labelled.scores[row] for labelled in tables])
    context = comparison.attributions[0].targets[row].context or len(tables[0].label_of)
    names = [attribution.label for attribution in comparison.attributions]
    chosen = [index for index in strongest(scores, MAX_BARS) if tables[0].label_of.index(index) < context]
    halves = [None if labelled.halves is None else labelled.halves[row] for labelled in tables]
    return score_table(tables[0], chosen, names, scores, [context] * len(names), halves)


def _rests(comparison: Comparison, by: str) -> list[RenderableType]:
    """The sums over tokens that belong to no unit, of the methods that have any."""
    rests = [(attribution.label, attribution.by(by).rest) for attribution in comparison.attributions]
    sentences = [f"{label} {', '.join(map(format_score, rest))}" for label, rest in rests if rest.any()]
    return [Text(f"in no {by}: {'; '.join(sentences)}", style="dim"), Text()] if sentences else []


def _agreement(comparison: Comparison) -> Table:
    """For every two methods the rank correlation, and the share of their three highest tokens that they have in common."""
    labels = [attribution.label for attribution in comparison.attributions]
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("over tokens: Spearman \u00b7 share of the top 3 in common", style="dim")
    for label in labels:
        table.add_column(Text(label), justify="right", overflow="fold")
    for label, correlations, overlaps in zip(labels, comparison.spearman, comparison.top_overlap, strict=True):
        cells = [f"{_or_none(rho, '+.2f')} \u00b7 {_or_none(overlap, '.2f')}" for rho, overlap in zip(correlations, overlaps, strict=True)]
        table.add_row(Text(label), *cells)
    return table


def _differences(comparison: Comparison) -> list[Text]:
    """A line for each result whose contract card says that it explains something else than the first."""
    first, *others = comparison.attributions
    found = [(other.label, differences(first.card(), other.card())) for other in others]
    return [
        Text(f"! {first.label} and {label} differ in what they explain ({', '.join(names)}): see their contract cards", style="yellow")
        for label, names in found
        if names
    ]


def _or_none(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)


def _costs(comparison: Comparison) -> Table:
    table = Table.grid(padding=(0, 2))
    for attribution in comparison.attributions:
        table.add_row(Text(attribution.label), Text(" \u00b7 ".join(cost_texts(attribution.cost)), style="dim"))
    return table
