"""The heat map in a terminal: the prompt coloured by score, and a bar for each token."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from noiser.results.attribution import Attribution, Comparison, Cost, Target
from noiser.views.escape import joined, visible
from noiser.views.labels import Shown, number, readable, shown, spaced, strongest
from noiser.views.palette import BAR, bar, blend, style

MOST_BARS = 40
"""A longer prompt gets bars for its strongest tokens only."""
MOST_COLUMNS = 8
"""Targets whose scores stand side by side."""


def plain(renderable: RenderableType, width: int = 100) -> str:
    """What a terminal without colour shows."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n")


def to_text(attribution: Attribution, width: int = 100) -> str:
    """The heat map without colour, as `print` shows it."""
    return plain(heatmap(attribution), width)


def heatmap(attribution: Attribution, normalization: str = "none", by: str | None = None) -> RenderableType:
    """The question, the coloured prompt, bars (columns for several targets), and what the method noted and took."""
    what = shown(attribution, by, normalization)
    unit = by or attribution.unit
    blocks: list[RenderableType] = []
    for row, target in enumerate(attribution.targets):
        blocks.append(question(target, attribution.model))
        blocks += [Text(), line(attribution, what, row), Text()] if len(attribution.targets) <= MOST_COLUMNS else []
    blocks.append(_bars(what) if len(attribution.targets) == 1 else _columns(what, attribution.targets))
    if what.rest is not None and np.any(what.rest != 0):
        blocks.append(Text(f"in no {unit}: " + ", ".join(map(number, what.rest)), style="dim"))
    if normalization != "none":
        blocks.append(Text(f"scores after {normalization}", style="dim"))
    return Group(*blocks, Text(), facts(attribution), *warnings(attribution))


def question(target: Target, model: str) -> Text:
    """What is explained, in a line."""
    answer = visible(joined(target.tokens))
    value = target.prob if target.value is None else target.value
    if target.quantity.startswith("function"):
        return Text.assemble("Why ", (visible(target.quantity), "bold"), f" = {value:.4g}?  {visible(model)}")
    if target.foil is not None:
        other = repr(visible(joined(target.foil.tokens)))
        what = {"prob": "difference in probability", "log_odds": "log odds"}[target.quantity]
        odds = f"p = {_short(target.prob)} against {_short(target.foil.prob)}, {what} {number(value)}, {visible(model)}"
        return Text.assemble("Why ", (repr(answer), "bold"), " and not ", (other, "bold"), f"?  {odds}")
    rank = "the first choice" if target.rank == 0 else f"choice number {target.rank + 1}"
    also = "" if target.quantity == "prob" else f", {target.quantity} {value:.3f}"
    which = rank if len(target.tokens) == 1 or target.rank == 0 else f"at the least likely step {rank}"
    return Text.assemble("Why ", (repr(answer), "bold"), f"?  p = {_short(target.prob)}{also}, {which} of {visible(model)}")


def line(attribution: Attribution, what: Shown, row: int) -> Text:
    """The prompt, each token coloured by its score or its unit's, and the target."""
    target = attribution.targets[row]
    largest = float(np.abs(what.scores[row]).max(initial=0.0)) or 1.0
    text = Text("  ")
    seen = target.context or len(attribution.prompt)
    for token, piece in enumerate(readable(attribution.prompt)[:seen]):
        label = what.of[token]
        share = 0.0 if label is None else what.scores[row, label] / largest
        text.append(visible(piece), style(share, attribution.prompt.special[token]))
    foil = f" (not {visible(joined(target.foil.tokens))})" if target.foil else ""
    return text.append("  \u2192", "dim").append(visible(joined(target.tokens)), "bold").append(foil, "dim")


def facts(attribution: Attribution) -> Text:
    """What the method found and what it took."""
    notes = attribution.notes
    parts: list[Any] = []
    if "k" in notes:
        k = notes["k"]
        found = f"{k:.4f}" if isinstance(k, float) else f"{min(k):.4f} to {max(k):.4f}"
        parts.append(f"k = {found} ({visible(str(notes.get('k_status', '')))})")
    return Text(" \u00b7 ".join([*parts, *taken(attribution.cost)]), style="dim")


def taken(cost: Cost) -> list[str]:
    """A cost in words."""
    backward = [f"{cost.backward_tokens:,} backward"] if cost.backward_tokens > cost.forward_tokens // 10 else []
    return [f"{cost.seconds:.1f} s", f"{cost.forward_tokens:,} token-forwards", *backward, f"peak {cost.peak_bytes / 1e9:.1f} GB"]


def warnings(shown: Attribution | Comparison) -> list[Text]:
    """What a reader has to know, each sentence once; of several methods with the names of those it is about."""
    each = shown.attributions if isinstance(shown, Comparison) else (shown,)
    about: dict[str, list[str]] = {}
    for one in each:
        for sentence in one.notes.get("warnings", ()):
            about.setdefault(sentence, []).append(one.label)
    lines = [f"! {'' if len(methods) == len(each) else ', '.join(methods) + ': '}{visible(text)}" for text, methods in about.items()]
    return [Text(line, style="yellow") for line in lines]


def _short(prob: float) -> str:
    return f"{prob:.3f}" if prob >= 0.001 or prob == 0 else f"{prob:.1e}"


def _bars(what: Shown) -> RenderableType:
    scores = what.scores[0]
    largest = float(np.abs(scores).max(initial=0.0)) or 1.0
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(width=BAR)
    table.add_column(overflow="fold")
    chosen = strongest(scores, MOST_BARS)
    for index in chosen:
        share = scores[index] / largest
        label = Text(what.labels[index], style="dim" if what.special[index] else "")
        table.add_row(number(scores[index]), Text(bar(share), style=Style(color=blend(share))), label)
    return Group(table, *_left_out(len(chosen), len(scores)))


def _columns(what: Shown, targets: tuple[Target, ...]) -> RenderableType:
    """Labels down, targets across, some at a time."""
    blocks: list[RenderableType] = []
    chosen = strongest(what.scores, MOST_BARS)
    for first in range(0, len(targets), MOST_COLUMNS):
        some = targets[first : first + MOST_COLUMNS]
        heads = [spaced(visible(joined(target.tokens))) for target in some]
        scores = what.scores[first : first + MOST_COLUMNS]
        seen = [target.context or len(what.of) for target in some]
        blocks.append(score_table(what, [index for index in chosen if what.of.index(index) < max(seen)], heads, scores, seen))
    return Group(*blocks, *_left_out(len(chosen), len(what.labels)))


def score_table(what: Shown, chosen: Sequence[int], heads: list[str], scores: np.ndarray, seen: list[int]) -> Table:
    """The chosen labels down, a column of scores for each head, coloured by share of the column's largest.

    `seen` is how many tokens come before each head's target: what does not has no score there.
    """
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    largest = np.maximum(np.abs(scores).max(-1, initial=0.0), 1e-300)
    for index in chosen:
        begins = what.of.index(index)
        columns = zip(scores[:, index], largest, seen, strict=True)
        cells = [Text(number(value), style(value / top, special=False)) if begins < n else Text() for value, top, n in columns]
        table.add_row(Text(what.labels[index], style="dim" if what.special[index] else ""), *cells)
    return table


def _left_out(shown: int, there: int) -> list[Text]:
    if shown == there:
        return []
    return [Text(f"the strongest {shown} of {there} tokens, in the order of the prompt", style="dim")]
