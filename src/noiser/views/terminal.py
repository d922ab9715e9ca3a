"""The heat map in a terminal: the prompt coloured by score, and a bar for each token."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from noiser.types import Attribution
from noiser.views.escape import visible

SUPPORTS, NEUTRAL, OPPOSES = (255, 120, 0), (200, 200, 200), (70, 150, 255)
"""Orange and blue on grey: told apart by the colour-blind, and about equally bright on light and dark terminals."""
BAR = 24
MOST_BARS = 40
"""A longer prompt gets bars for its strongest tokens only."""


def to_text(attribution: Attribution, width: int = 100) -> str:
    """The heat map without colour, as `print` shows it."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(heatmap(attribution))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n")


def heatmap(attribution: Attribution, normalization: str = "none") -> RenderableType:
    """One block a target: its probability, the coloured prompt, bars, and what the method noted and took."""
    scores = attribution.normalized(normalization)
    blocks = [_block(attribution, row, normalization) for row in scores]
    return Group(*blocks, _facts(attribution), *[Text(f"! {visible(w)}", style="yellow") for w in attribution.notes.get("warnings", ())])


def _block(attribution: Attribution, scores: np.ndarray, normalization: str) -> Group:
    target = attribution.target
    answer = visible("".join(target.tokens))
    rank = "its own prediction" if target.rank == 0 else f"its choice number {target.rank + 1}"
    head = Text.assemble("Why ", (repr(answer), "bold"), f"?  p = {target.prob:.3f}, {rank} of {visible(attribution.model)}")
    largest = float(np.abs(scores).max()) or 1.0
    line = Text("  ")
    for token, score, special in zip(attribution.tokens, scores, attribution.prompt.special, strict=True):
        line.append(visible(token), _style(score / largest, special))
    line.append("  \u2192", "dim").append(answer, "bold")
    unit = "" if normalization == "none" else f"scores after {normalization}"
    return Group(head, Text(), line, Text(), _bars(attribution, scores, largest), *([Text(unit, style="dim")] if unit else []))


def _bars(attribution: Attribution, scores: np.ndarray, largest: float) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(width=BAR)
    table.add_column(overflow="fold")
    shown = _strongest(scores)
    for index in shown:
        share = scores[index] / largest
        label = visible(attribution.tokens[index])
        label = "\u00b7" + label[1:] if label.startswith(" ") else label
        style = Style(color=_blend(share))
        token = Text(label, style="dim" if attribution.prompt.special[index] else "")
        table.add_row(f"{scores[index]:+.4f}", Text(_bar(share), style=style), token)
    if len(shown) < len(scores):
        return Group(table, Text(f"the strongest {len(shown)} of {len(scores)} tokens, in the order of the prompt", style="dim"))
    return table


def _strongest(scores: np.ndarray) -> Sequence[int]:
    order = np.argsort(-np.abs(scores), kind="stable")[:MOST_BARS]
    return sorted(order.tolist())


def _bar(share: float) -> str:
    """Full blocks where a token supports the target, shaded ones where it opposes it."""
    eighths = round(abs(share) * BAR * 8)
    if share < 0:
        return "\u2592" * max(1, eighths // 8)
    return "\u2588" * (eighths // 8) + (chr(0x2590 - eighths % 8) if eighths % 8 else "")


def _facts(attribution: Attribution) -> Text:
    notes, cost = attribution.notes, attribution.cost
    parts: list[Any] = []
    if "k" in notes:
        k = notes["k"]
        shown = f"{k:.4f}" if isinstance(k, float) else f"{min(k):.4f} to {max(k):.4f}"
        parts.append(f"k = {shown} ({notes['k_status']})")
    parts += [f"{cost.seconds:.1f} s", f"{cost.forward_tokens:,} token-forwards", f"peak {cost.peak_bytes / 1e9:.1f} GB"]
    return Text("\n" + " \u00b7 ".join(parts), style="dim")


def _blend(share: float) -> Color:
    """From grey at 0 to orange at 1 and blue at -1."""
    end = SUPPORTS if share >= 0 else OPPOSES
    return Color.from_rgb(*(a + (b - a) * min(1.0, abs(share)) for a, b in zip(NEUTRAL, end, strict=True)))


def _style(share: float, special: bool) -> Style:
    """A background for what counts; special tokens dim, tokens next to zero plain."""
    if abs(share) < 0.04:
        return Style(dim=special)
    return Style(color="black", bgcolor=_blend(share), italic=special)
