"""Figures for papers: each method's name, the prompt as running text with a box of its score behind each token, the prediction.

Drawn by matplotlib, which is imported when a figure is asked for. Every length is in points.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, zip_longest
from typing import Literal

import numpy as np
from rich.text import Text

from noiser.errors import OptionError
from noiser.results.attribution import Attribution, Comparison, Target
from noiser.views.escape import joined, visible
from noiser.views.figure.canvas import UNDATED, Block, Words, render
from noiser.views.figure.flow import EDGE, Colour, Look, Piece, Put, boxes, flow, lines
from noiser.views.figure.type import Typeface
from noiser.views.labels import Shown, readable, shown
from noiser.views.palette import OPPOSES, SUPPORTS
from noiser.views.terminal.attribution import question

GREY: Colour = (0.35, 0.35, 0.35)
TOKEN, PREDICTED = Look(9.0), Look(9.0, bold=True)
SPECIAL, AFTER = Look(9.0, italic=True), Look(9.0, colour=GREY)
NAME, RANGE, SMALL = Look(7.0), Look(6.0, colour=GREY), Look(6.4, colour=GREY)
ASKED, STRESSED = Look(8.0, colour=GREY), Look(8.0, bold=True)

LINE = 14.0
"""From one line of the prompt to the next."""
ABOVE, HIGH = 8.6, 11.5
"""How far a box reaches above the baseline, and how high it is."""
MARGIN = 4.0
NARROWEST, WIDEST = 2.0, 48.0
STRENGTH, RULE = 0.85, (0.05, 0.25, 0.6)
"""The terminal's colours, a little lighter on paper; and the line under what opposes."""
ROOM = 180.0
"""Less than that beside the legend, and what it is a share of gets a line of its own."""
NAMES = 88.0
"""A method's name that is wider is broken at its underscores."""


def figure(
    result: Attribution | Comparison,
    form: Literal["svg", "png", "pdf"],
    *,
    normalization: str = "none",
    by: str | None = None,
    width: float = 7.2,
) -> bytes:
    """An attribution, or several methods on the same prompt, as a figure for a paper: the content of an SVG, PNG or PDF file.

    `width` is in inches; the height follows from the text. `normalization` and `by` are as in the other views: `by` sums
    scores over units, whose tokens then share one box. A box is orange where it supports the target and blue where it opposes
    it, as strong as its share of the row's largest |score|, which is written under the method's name. The same result gives
    the same bytes. Tokens stand from left to right in the order in which the model reads them, in scripts of either direction.
    Characters that no font here has (see `noiser.views.figure.type`) stay as they are in an SVG, for the reader's fonts, and are
    written as escapes (\\u4f60) in a PNG or PDF. Raises OptionError for another form or width, for an unknown normalization
    or unit, and for a PNG too long to be read.
    """
    if form not in UNDATED:
        raise OptionError(f"a figure is {', '.join(UNDATED)}; got {form!r}")
    if not NARROWEST <= width <= WIDEST:
        raise OptionError(f"a figure is {NARROWEST:g} to {WIDEST:g} inches wide; got {width:g}")
    rows = result.attributions if isinstance(result, Comparison) else (result,)
    by = by or (rows[0].unit if len({row.unit for row in rows}) == 1 else "token")
    page = _Page(Typeface(keep=form == "svg"), width * 72)
    shows = {row.label: shown(row, by, normalization) for row in rows}
    for number in range(len(rows[0].targets)):
        page.target(rows[0], number, shows)
    page.legend(_explained(by, normalization), result.failures if isinstance(result, Comparison) else ())
    return render(page.marks, (width * 72, page.y + MARGIN), form, page.typeface, question(rows[0].target, rows[0].model).plain)


def colour(share: float) -> Colour:
    """White at 0, orange at 1, blue at -1."""
    red, green, blue = (1 - min(1.0, abs(share)) * STRENGTH * (1 - end / 255) for end in (SUPPORTS if share >= 0 else OPPOSES))
    return red, green, blue


def rule(share: float) -> Colour:
    """The line under a box that opposes: it tells the two apart where a page is printed in grey."""
    red, green, blue = (1 - min(1.0, -share) * (1 - end) for end in RULE)
    return red, green, blue


class _Page:
    """Marks from top to bottom; `y` is how far they have got."""

    def __init__(self, typeface: Typeface, width: float) -> None:
        self.typeface, self.width = typeface, width
        self.marks: list[Block | Words] = []
        self.y = MARGIN

    def target(self, first: Attribution, number: int, shows: Mapping[str, Shown]) -> None:
        """The question, and a row for each method: all have the same tokens, so what is set once serves all."""
        self.y += 9.0 * (number > 0)
        self.prose(_sentence(question(first.targets[number], first.model)), MARGIN)
        self.y += 4.0
        names = {method: self._broken(method) for method in shows}
        widest = max(self.typeface.width(line, NAME) for name in names.values() for line in name)
        left = MARGIN + min(widest + 8.0, self.width / 3)
        puts = self._set(_pieces(first, next(iter(shows.values())), number), left)
        for method, what in shows.items():
            self._row(names[method], what.scores[number], puts, left)

    def prose(self, pieces: Iterable[Piece], left: float) -> None:
        """Text without boxes, from here down."""
        puts = self._set(pieces, left - EDGE)
        self._words(puts, left - EDGE, 10.5)
        self.y += lines(puts) * 10.5

    def _row(self, name: Sequence[str], scores: np.ndarray, puts: Sequence[Put], left: float) -> None:
        """One method: its name and its largest score, the prompt in boxes, and what was predicted."""
        largest, baseline = float(np.abs(scores).max(initial=0.0)), self.y + ABOVE
        for part in name:
            self.marks.append(Words(MARGIN, baseline, part, NAME))
            baseline += 7.6
        self.marks.append(Words(MARGIN, baseline - 0.6, f"\u00b1{largest:.3g}", RANGE))
        for box in boxes(puts):
            self._box(left + box.left, self.y + box.line * LINE, box.right - box.left, scores[box.label] / (largest or 1.0))
        self._words(puts, left, LINE)
        self.y = max(self.y + lines(puts) * LINE + 3.0 * (lines(puts) > 1), baseline) + 3.5

    def _box(self, x: float, y: float, width: float, share: float) -> None:
        self.marks.append(Block(x, y, width, HIGH, colour(share), 1.5))
        if share < 0:
            self.marks.append(Block(x + 0.8, y + HIGH - 0.9, width - 1.6, 0.9, rule(share)))

    def _set(self, pieces: Iterable[Piece], left: float) -> list[Put]:
        drawn = (replace(piece, text=self.typeface.shown(piece.text, piece.look)) for piece in pieces)
        return flow(drawn, self.width - left - MARGIN, self.typeface.width)

    def _words(self, puts: Iterable[Put], left: float, pitch: float) -> None:
        """Each token by itself; what is no token in runs as long as may be, for fonts of other widths."""
        runs: list[tuple[Put, str]] = []
        for put in puts:
            before = runs[-1][0] if runs else None
            if before and not (put.piece.labels or before.piece.labels) and (before.line, before.piece.look) == (put.line, put.piece.look):
                runs[-1] = (before, runs[-1][1] + put.lead + put.piece.text)
            else:
                runs.append((put, put.piece.text))
        for first, text in runs:
            self.marks.append(Words(left + first.x, self.y + first.line * pitch + ABOVE, text, first.piece.look))

    def legend(self, explained: str, failures: Iterable[str]) -> None:
        """What the colours mean, and which methods have no row."""
        self.y += 7.0
        baseline, x, wide, steps = self.y + ABOVE, MARGIN, 96.0, 96
        self.marks.append(Words(x, baseline, "opposes", SMALL))
        x += self.typeface.width("opposes", SMALL) + 4.0
        for step in range(steps):
            share, start = 2 * (step + 0.5) / steps - 1, x + wide * step / steps
            across = wide / steps + 0.3 * (step < steps - 1)
            self.marks.append(Block(start, baseline - 5.6, across, 6.6, colour(share)))
            self.marks += [Block(start, baseline + 0.1, across, 0.9, rule(share))] * (share < 0)
        self.marks.append(Words(x + (wide - self.typeface.width("0", RANGE)) / 2, baseline - 0.2, "0", RANGE))
        x += wide + 4.0
        self.marks.append(Words(x, baseline, "supports", SMALL))
        x += self.typeface.width("supports", SMALL) + 12.0
        if self.width - x < ROOM:
            self.y, x = self.y + 10.5, MARGIN
        self.prose(_spread("; ".join([explained, *(f"no scores from {visible(name)}" for name in failures)]), SMALL), x)

    def _broken(self, name: str) -> list[str]:
        """A method's name, in lines."""
        found = [""]
        for part in re.findall(r"[^_]*_+|[^_]+$", visible(name)):
            if found[-1] and self.typeface.width(found[-1] + part, NAME) > NAMES:
                found.append("")
            found[-1] += part
        return found


def _pieces(attribution: Attribution, what: Shown, row: int) -> Iterator[Piece]:
    """The prompt before a target, token by token, and the target."""
    target, special, done = attribution.targets[row], attribution.prompt.special, list[Piece]()
    for token, text in enumerate(readable(attribution.prompt)[: target.context or len(attribution.prompt)]):
        labels = (what.of[token],)
        if done and not text and attribution.tokens[token].startswith("<0x"):
            done[-1] = replace(done[-1], labels=done[-1].labels + labels)
        else:
            parts = re.findall("[^\u23ce]*\u23ce+|[^\u23ce]+$|^$", visible(text))
            done += [Piece(part, SPECIAL if special[token] else TOKEN, labels, part.endswith("\u23ce")) for part in parts]
    for piece, following in zip_longest(done, done[1:]):
        yield replace(piece, ends_line=piece.ends_line and not (following and following.ends_line and not following.text.strip("\u23ce")))
    yield Piece("\u2192" if done and done[-1].ends_line else "  \u2192", AFTER)
    yield from _predicted(target)


def _predicted(target: Target) -> Iterator[Piece]:
    first, *others = _spread(f" {_said(target)}", PREDICTED)
    yield replace(first, glued=True)
    yield from others
    if target.foil:
        yield from _spread(f", not {_said(target.foil)}", AFTER)


def _said(target: Target) -> str:
    """The words of a target; spaces as open boxes where there is nothing else; of a function its name."""
    text = visible(joined(target.tokens))
    return text.strip(" ") or "\u2423" * len(text) or visible(target.quantity)


def _spread(text: str, look: Look) -> list[Piece]:
    """A sentence as words."""
    return [Piece(word, look) for word in re.findall(r" *[^ ]+| +$", text)]


def _sentence(text: Text) -> Iterator[Piece]:
    """The terminal's question; what is bold there is bold here."""
    bold = [False] * len(text.plain)
    for span in text.spans:
        bold[span.start : span.end] = ["bold" in str(span.style)] * (span.end - span.start)
    for word in re.finditer(r" *[^ ]+", text.plain):
        for stressed, places in groupby(range(*word.span()), key=bold.__getitem__):
            yield Piece("".join(text.plain[place] for place in places), STRESSED if stressed else ASKED)


def _explained(by: str, normalization: str) -> str:
    """What the colours are a share of."""
    parts = ["share of the largest |score| of each row (\u00b1)"]
    parts += [f"summed over each {by}"] if by != "token" else []
    return ", ".join(parts + ([f"after {normalization}"] if normalization != "none" else []))
