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
from noiser.views.labels import (
    LabelledScores,
    format_interval,
    format_score,
    join_tokens,
    labelled_scores,
    mark_space,
    readable_tokens,
    strongest,
    visible,
)
from noiser.views.palette import BAR_WIDTH, bar, blend, style
from noiser.views.terminal.sources import SHORT, lists_sources, render_sources

MAX_BARS = 40
"""A longer prompt gets bars for its strongest tokens only."""
MAX_COLUMNS = 8
"""Targets whose scores stand side by side."""

WARNED = ("non_monotone", "edge", "completeness")
"""Findings of the health report that methods warn of themselves."""

DISTANCE_NAMES = {"hellinger": "Hellinger distance", "jsd": "Jensen-Shannon divergence"}
"""Quantities that are 0 on the clean run: their value says nothing, their name does."""


def to_text(attribution: Attribution, width: int = 100) -> str:
    """The heat map without colour, as `print` shows it."""
    return plain_text(heatmap(attribution), width)


def heatmap(attribution: Attribution, normalization: str = "none", by: str | None = None) -> RenderableType:
    """The question, the coloured prompt, bars (columns for several targets), and the method's notes and cost.

    Of `unit=auto`, and of a long prompt with sources, the sources stand in place of bars; a long prompt is not printed.
    """
    if by is None and normalization == "none" and lists_sources(attribution):
        return _sources(attribution)
    labelled = labelled_scores(attribution, by, normalization)
    blocks: list[RenderableType] = []
    for row, target in enumerate(attribution.targets):
        blocks.append(question(target, attribution.model))
        if len(attribution.targets) <= MAX_COLUMNS:
            blocks += [Text(), coloured_prompt(attribution, labelled, row), Text()]
    blocks.append(_bars(labelled, _places(attribution, by)) if len(attribution.targets) == 1 else _columns(labelled, attribution.targets))
    if labelled.rest is not None and np.any(labelled.rest != 0):
        unit = by or attribution.unit
        blocks.append(Text(f"in no {unit}: " + ", ".join(map(format_score, labelled.rest)), style="dim"))
    if normalization != "none":
        blocks.append(Text(f"scores after {normalization}", style="dim"))
    if labelled.halves is not None:
        blocks += interval_note([attribution], ranks=len(attribution.targets) == 1)
    return Group(*blocks, Text(), _facts(attribution), *warnings(attribution), *_health(attribution))


def _sources(attribution: Attribution) -> RenderableType:
    blocks: list[RenderableType] = [question(target, attribution.model) for target in attribution.targets[:1]]
    if len(attribution.prompt) <= SHORT and len(attribution.targets) == 1:
        blocks += [Text(), coloured_prompt(attribution, labelled_scores(attribution), 0)]
    if len(attribution.targets) > 1:
        blocks = [Text(f"{len(attribution.targets)} statements, explained by {visible(attribution.model)}")]
    end = [Text(), _facts(attribution), *warnings(attribution), *_health(attribution)]
    return Group(*blocks, Text(), render_sources([attribution]), *end)


def plain_text(renderable: RenderableType, width: int = 100) -> str:
    """A renderable as a terminal without colour shows it."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n")


def question(target: Target, model: str) -> Text:
    """What is explained, in one line."""
    answer = visible(join_tokens(target.tokens))
    value = target.prob if target.value is None else target.value
    if target.quantity.startswith("function"):
        return Text.assemble("Why ", (visible(target.quantity), "bold"), f" = {value:.4g}?  {visible(model)}")
    if target.foil is not None:
        foil = repr(visible(join_tokens(target.foil.tokens)))
        quantity = {"prob": "difference in probability", "log_odds": "log odds"}[target.quantity]
        probs = f"p = {_format_prob(target.prob)} against {_format_prob(target.foil.prob)}"
        facts = f"{probs}, {quantity} {format_score(value)}, {visible(model)}"
        return Text.assemble("Why ", (repr(answer), "bold"), " and not ", (foil, "bold"), f"?  {facts}")
    rank = "the first choice" if target.rank == 0 else f"choice number {target.rank + 1}"
    quantity = "" if target.quantity == "prob" else f", {target.quantity} {value:.3f}"
    quantity = f", {DISTANCE_NAMES[target.quantity]} of its distribution" if target.quantity in DISTANCE_NAMES else quantity
    choice = rank if len(target.tokens) == 1 or target.rank == 0 else f"at the least likely step {rank}"
    return Text.assemble("Why ", (repr(answer), "bold"), f"?  p = {_format_prob(target.prob)}{quantity}, {choice} of {visible(model)}")


def coloured_prompt(attribution: Attribution, labelled: LabelledScores, row: int) -> Text:
    """The prompt, each token coloured by its score or its unit's score, and the target."""
    target = attribution.targets[row]
    largest = float(np.abs(labelled.scores[row]).max(initial=0.0)) or 1.0
    text = Text("  ")
    context = target.context or len(attribution.prompt)
    for token, string in enumerate(readable_tokens(attribution.prompt)[:context]):
        label = labelled.label_of[token]
        share = 0.0 if label is None else labelled.scores[row, label] / largest
        text.append(visible(string), style(share, attribution.prompt.special[token]))
    foil = f" (not {visible(join_tokens(target.foil.tokens))})" if target.foil else ""
    return text.append("  \u2192", "dim").append(visible(join_tokens(target.tokens)), "bold").append(foil, "dim")


def cost_texts(cost: Cost) -> list[str]:
    """A cost in words. Backward tokens are left out if they are few."""
    backward = [f"{cost.backward_tokens:,} backward"] if cost.backward_tokens > cost.forward_tokens // 10 else []
    return [f"{cost.seconds:.1f} s", f"{cost.forward_tokens:,} token-forwards", *backward, f"peak {cost.peak_bytes / 1e9:.1f} GB"]


def warnings(result: Attribution | Comparison) -> list[Text]:
    """Each warning once. In a comparison, a warning that does not concern all methods begins with the names of those it concerns."""
    attributions = result.attributions if isinstance(result, Comparison) else (result,)
    labels_by_warning: dict[str, list[str]] = {}
    for attribution in attributions:
        for warning in attribution.notes.get("warnings", ()):
            labels_by_warning.setdefault(warning, []).append(attribution.label)
    lines = []
    for warning, labels in labels_by_warning.items():
        names = "" if len(labels) == len(attributions) else ", ".join(labels) + ": "
        lines.append(Text(f"! {names}{visible(warning)}", style="yellow"))
    return lines


def score_table(
    labelled: LabelledScores,
    chosen: Sequence[int],
    heads: list[str],
    scores: np.ndarray,
    contexts: list[int],
    halves: Sequence[np.ndarray | None] | None = None,
) -> Table:
    """The chosen labels as rows, and a column of scores for each head, coloured by the share of the column's largest score.

    `contexts` says how many tokens come before each head's target. Later tokens have no score there. `halves` are the 95 % intervals of
    each head's scores, if it has any.
    """
    halves = halves or [None] * len(heads)
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("")
    for head in heads:
        table.add_column(Text(head), justify="right", overflow="fold")
    largest = np.maximum(np.abs(scores).max(-1, initial=0.0), 1e-300)
    for index in chosen:
        first_token = labelled.label_of.index(index)
        columns = zip(scores[:, index], largest, contexts, [each if each is None else each[index] for each in halves], strict=True)
        cells = [
            Text(format_interval(value, half), style(value / top, special=False)) if first_token < n else Text()
            for value, top, n, half in columns
        ]
        table.add_row(_label(labelled, index), *cells)
    return table


def _facts(attribution: Attribution) -> Text:
    """The scale k, if the method has one, and the cost."""
    notes = attribution.notes
    parts: list[Any] = []
    if "k" in notes:
        k = notes["k"]
        value = f"{k:.4f}" if isinstance(k, float) else f"{min(k):.4f} to {max(k):.4f}"
        parts.append(f"k = {value} ({visible(', '.join(str(notes[name]) for name in ('k_status', 'assumption') if name in notes))})")
    return Text(" \u00b7 ".join([*parts, *cost_texts(attribution.cost)]), style="dim")


def _health(attribution: Attribution) -> list[Text]:
    """The findings that no warning says already."""
    return [Text(f"~ {finding}", style="yellow") for finding in attribution.health() if finding.name not in WARNED]


def _format_prob(prob: float) -> str:
    return f"{prob:.3f}" if prob >= 0.001 or prob == 0 else f"{prob:.1e}"


def _label(labelled: LabelledScores, index: int) -> Text:
    return Text(labelled.labels[index], style="dim" if labelled.special[index] else "")


def _places(attribution: Attribution, by: str | None) -> Sequence[str]:
    """For each label the places that it may have, if that is more than one: `ranks 1-2`. Empty without standard errors."""
    unit = by or attribution.unit
    if attribution.stderr is None:
        return ()
    found = attribution.ranks() if unit == "token" else attribution.by(unit).ranks()
    return [f"ranks {first}-{last}" if last > first else "" for first, last in found.tolist()]


def interval_note(attributions: Sequence[Attribution], *, ranks: bool) -> list[Text]:
    """What \u00b1 and the ranges of ranks mean."""
    drawn = [each for each in attributions if each.stderr is not None]
    if not drawn:
        return []
    order = "; ranks: the places that it may have, highest score first, all at 95 % together" if ranks else ""
    return [Text(f"\u00b1: 95 % interval of each score from the method's own random draws{order}", style="dim")]


def _bars(labelled: LabelledScores, places: Sequence[str]) -> RenderableType:
    """One target: a score, a bar and a label in each row; with its interval and the places that it may have."""
    scores = labelled.scores[0]
    largest = float(np.abs(scores).max(initial=0.0)) or 1.0
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(width=BAR_WIDTH)
    table.add_column(overflow="fold")
    uncertain = labelled.halves is not None and any(places)
    if uncertain:
        table.add_column(style="dim")
    chosen = strongest(scores, MAX_BARS)
    for index in chosen:
        share = scores[index] / largest
        score = format_interval(scores[index], None if labelled.halves is None else labelled.halves[0, index])
        place = [places[index] if index < len(places) else ""] if uncertain else []
        table.add_row(score, Text(bar(share), style=Style(color=blend(share))), _label(labelled, index), *place)
    return Group(table, *_omitted(len(chosen), len(scores)))


def _columns(labelled: LabelledScores, targets: tuple[Target, ...]) -> RenderableType:
    """Several targets: labels as rows and targets as columns, MAX_COLUMNS in one table."""
    blocks: list[RenderableType] = []
    chosen = strongest(labelled.scores, MAX_BARS)
    for first in range(0, len(targets), MAX_COLUMNS):
        some = targets[first : first + MAX_COLUMNS]
        heads = [mark_space(visible(join_tokens(target.tokens))) for target in some]
        scores = labelled.scores[first : first + MAX_COLUMNS]
        contexts = [target.context or len(labelled.label_of) for target in some]
        inside = [index for index in chosen if labelled.label_of.index(index) < max(contexts)]
        blocks.append(score_table(labelled, inside, heads, scores, contexts))
    return Group(*blocks, *_omitted(len(chosen), len(labelled.labels)))


def _omitted(count: int, total: int) -> list[Text]:
    if count == total:
        return []
    return [Text(f"the strongest {count} of {total} tokens, in the order of the prompt", style="dim")]
