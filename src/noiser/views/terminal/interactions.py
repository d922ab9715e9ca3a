"""Interactions in a terminal: the pairs that do most together, and the Shapley value of each unit."""

import numpy as np
from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from noiser.results.interactions import Interactions
from noiser.views.labels import MAX_LABEL, format_score, mark_space, strongest, visible
from noiser.views.palette import BAR_WIDTH, bar, blend
from noiser.views.terminal.attribution import cost_texts, plain_text, question

MAX_PAIRS = 15
"""Pairs in the table."""
MAX_UNITS = 40
"""A longer prompt shows its strongest units only."""


def to_text(result: Interactions, width: int = 100) -> str:
    """The interactions without colour, as `print` shows them."""
    return plain_text(render_interactions(result), width)


def render_interactions(result: Interactions) -> RenderableType:
    """The question, the strongest pairs with bars, the Shapley values, and the cost."""
    kind = result.units.kind
    pairs = result.strongest(MAX_PAIRS)
    names = unit_labels(result)
    together = [(f"{names[pair.first]}  +  {names[pair.second]}", pair.value) for pair in pairs]
    shown = strongest(result.shapley, MAX_UNITS)
    alone = [(names[unit], float(result.shapley[unit])) for unit in shown]
    total = len(names) * (len(names) - 1) // 2
    count = f"the strongest {len(pairs)} of {total}" if len(pairs) < total else f"all {total}"
    return Group(
        question(result.target, result.model),
        Text(),
        Text.assemble((f"Pairs of {kind}s", "bold"), (f", {count}; above 0: more together than each alone, below 0: less", "dim")),
        _bars(together),
        Text(),
        Text.assemble(("Shapley values", "bold"), (f", the mean change when a {kind} joins a random set of the others", "dim")),
        _bars(alone),
        Text(),
        _facts(result),
        *(Text(f"! {visible(warning)}", style="yellow") for warning in result.notes.get("warnings", ())),
    )


def unit_labels(result: Interactions) -> list[str]:
    """A short, visible text for each unit."""
    texts = [visible(text) for text in result.units.texts]
    texts = [mark_space(text) for text in texts] if result.units.kind == "token" else [text.strip() for text in texts]
    return [text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "\u2026" for text in texts]


def _bars(rows: list[tuple[str, float]]) -> Table:
    largest = max((abs(value) for _, value in rows), default=0.0) or 1.0
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(width=BAR_WIDTH)
    table.add_column(overflow="fold")
    for label, value in rows:
        drawn = Text(bar(value / largest) if np.any(value) else "", style=Style(color=blend(value / largest)))
        table.add_row(format_score(value), drawn, Text(label))
    return table


def _facts(result: Interactions) -> Text:
    notes = result.notes
    how = "exact" if notes.get("approximator") == "exact" else f"estimated by {visible(str(notes.get('approximator')))}"
    sets = f"{how}, {notes.get('coalitions', 0):,} sets of {result.units.kind}s"
    return Text(" \u00b7 ".join([sets, *cost_texts(result.cost)]), style="dim")
