"""Figures for papers: for each method its name, the prompt as running text with coloured boxes, and the prediction.

matplotlib draws them; it is imported when a figure is drawn. Lengths are in points.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, zip_longest
from typing import Literal

import numpy as np
from rich.text import Text

from noiser.errors import OptionError, require_extra
from noiser.results.attribution import Attribution, Comparison, Target
from noiser.views.figure.canvas import METADATA, Rectangle, TextMark, Typeface, render
from noiser.views.figure.layout import EDGE, Colour, Piece, PlacedPiece, TextStyle, boxes, lay_out, line_count
from noiser.views.labels import LabelledScores, join_tokens, labelled_scores, readable_tokens, visible
from noiser.views.palette import OPPOSES, SUPPORTS
from noiser.views.terminal.attribution import question

GREY: Colour = (0.35, 0.35, 0.35)
TOKEN, PREDICTED = TextStyle(9.0), TextStyle(9.0, bold=True)
SPECIAL, ARROW = TextStyle(9.0, italic=True), TextStyle(9.0, colour=GREY)
NAME, RANGE, SMALL = TextStyle(7.0), TextStyle(6.0, colour=GREY), TextStyle(6.4, colour=GREY)
QUESTION, EMPHASIS = TextStyle(8.0, colour=GREY), TextStyle(8.0, bold=True)

LINE_HEIGHT = 14.0
"""From one line of the prompt to the next."""
BOX_ASCENT, BOX_HEIGHT = 8.6, 11.5
"""How far a box reaches above the baseline, and its height."""
DOT = 1.1
"""Length of a dot, and of the gap behind it, under a box whose interval holds 0."""
PROSE_LINE_HEIGHT = 10.5
MARGIN = 4.0
MIN_WIDTH, MAX_WIDTH = 2.0, 48.0
"""Inches."""
STRENGTH, RULE = 0.85, (0.05, 0.25, 0.6)
"""The colours are a little lighter on paper than in the terminal. RULE is the colour of the line under boxes that oppose."""
MIN_LEGEND_ROOM = 180.0
"""If there is less room beside the colour scale, its explanation gets a line of its own."""
MAX_NAME_WIDTH = 88.0
"""A wider method name is broken at its underscores."""


def figure(
    result: Attribution | Comparison,
    form: Literal["svg", "png", "pdf"],
    *,
    normalization: str = "none",
    by: str | None = None,
    width: float = 7.2,
) -> bytes:
    """An attribution, or several methods on the same prompt, as a figure for a paper: the bytes of an SVG, PNG or PDF file.

    `width` is in inches; the height follows from the text. `by` sums the scores over units; the tokens of a unit share one box.
    An orange box supports the target, a blue box opposes it. The strength of the colour is the share of the row's largest
    |score|, which stands under the method's name. Equal results give equal bytes.

    If a method drew at random, its widest 95 % interval stands there too, and a dotted line is under each box whose interval holds 0.
    Tokens stand from left to right in the order in which the model reads them, in scripts of either direction. Characters that
    no font here has (see `noiser.views.figure.canvas`) stay in an SVG, for the reader's fonts; in a PNG or PDF they become
    escapes (\\u4f60).

    Raises OptionError for another form or width, for an unknown normalization or unit, and for a PNG that is too long to be read.
    """
    require_extra("plots", "a figure")
    if form not in METADATA:
        raise OptionError(f"a figure is {', '.join(METADATA)}; got {form!r}")
    if not MIN_WIDTH <= width <= MAX_WIDTH:
        raise OptionError(f"a figure is {MIN_WIDTH:g} to {MAX_WIDTH:g} inches wide; got {width:g}")
    rows = result.attributions if isinstance(result, Comparison) else (result,)
    by = by or (rows[0].unit if len({row.unit for row in rows}) == 1 else "token")
    page = _Page(Typeface(keep=form == "svg"), width * 72)
    tables = {row.label: labelled_scores(row, by, normalization) for row in rows}
    for number in range(len(rows[0].targets)):
        page.add_target(rows[0], number, tables)
    page.add_legend(_explain_marks(by, normalization, tables.values()), result.failures if isinstance(result, Comparison) else ())
    return render(page.marks, (width * 72, page.y + MARGIN), form, page.typeface, question(rows[0].target, rows[0].model).plain)


def colour(share: float) -> Colour:
    """The colour of a share in [-1, 1]: white at 0, orange at 1, blue at -1."""
    red, green, blue = (1 - min(1.0, abs(share)) * STRENGTH * (1 - end / 255) for end in (SUPPORTS if share >= 0 else OPPOSES))
    return red, green, blue


def rule(share: float) -> Colour:
    """The colour of the line under a box that opposes. The line tells the two apart if a page is printed in grey."""
    red, green, blue = (1 - min(1.0, -share) * (1 - end) for end in RULE)
    return red, green, blue


class _Page:
    """The marks of a figure from top to bottom; `y` is the end of the last one."""

    def __init__(self, typeface: Typeface, width: float) -> None:
        self.typeface, self.width = typeface, width
        self.marks: list[Rectangle | TextMark] = []
        self.y = MARGIN

    def add_target(self, first: Attribution, number: int, tables: Mapping[str, LabelledScores]) -> None:
        """Add the question and a row for each method. All rows share one layout, because they have the same tokens."""
        self.y += 9.0 * (number > 0)
        self.add_prose(_sentence(question(first.targets[number], first.model)), MARGIN)
        self.y += 4.0
        names = {method: self._break_name(method) for method in tables}
        lines = [(line, NAME) for name in names.values() for line in name]
        lines += [(_widest(labelled.halves[number]), RANGE) for labelled in tables.values() if labelled.halves is not None]
        widest = max(self.typeface.width(line, style) for line, style in lines)
        left = MARGIN + min(widest + 8.0, self.width / 3)
        placed = self._lay_out(_pieces(first, next(iter(tables.values())), number), left)
        for method, labelled in tables.items():
            halves = None if labelled.halves is None else labelled.halves[number]
            self._add_row(names[method], labelled.scores[number], halves, placed, left)

    def add_prose(self, pieces: Iterable[Piece], left: float) -> None:
        """Add text without boxes."""
        placed = self._lay_out(pieces, left - EDGE)
        self._add_texts(placed, left - EDGE, PROSE_LINE_HEIGHT)
        self.y += line_count(placed) * PROSE_LINE_HEIGHT

    def _add_row(
        self, name: Sequence[str], scores: np.ndarray, halves: np.ndarray | None, placed: Sequence[PlacedPiece], left: float
    ) -> None:
        """Add a row: the method's name, its largest score and widest interval, the prompt in boxes, and the prediction."""
        largest, baseline = float(np.abs(scores).max(initial=0.0)), self.y + BOX_ASCENT
        for part in name:
            self.marks.append(TextMark(MARGIN, baseline, part, NAME))
            baseline += 7.6
        self.marks.append(TextMark(MARGIN, baseline - 0.6, f"\u00b1{largest:.3g}", RANGE))
        if halves is not None:
            baseline += 7.0
            self.marks.append(TextMark(MARGIN, baseline - 0.6, _widest(halves), RANGE))
        for box in boxes(placed):
            x, y, width = left + box.left, self.y + box.line * LINE_HEIGHT, box.right - box.left
            self._add_box(x, y, width, scores[box.label] / (largest or 1.0))
            if halves is not None and 0 < halves[box.label] >= abs(scores[box.label]):
                self._add_dots(x, y + BOX_HEIGHT + 0.7, width)
        self._add_texts(placed, left, LINE_HEIGHT)
        self.y = max(self.y + line_count(placed) * LINE_HEIGHT + 3.0 * (line_count(placed) > 1), baseline) + 3.5

    def _add_box(self, x: float, y: float, width: float, share: float) -> None:
        self.marks.append(Rectangle(x, y, width, BOX_HEIGHT, colour(share), 1.5))
        if share < 0:
            self.marks.append(Rectangle(x + 0.8, y + BOX_HEIGHT - 0.9, width - 1.6, 0.9, rule(share)))

    def _add_dots(self, x: float, y: float, width: float) -> None:
        """Add a dotted line: the interval of the box above it holds 0."""
        count = max(1, int((width + DOT) / (2 * DOT)))
        self.marks += [Rectangle(x + 2 * DOT * dot, y, DOT, 0.7, GREY) for dot in range(count)]

    def _lay_out(self, pieces: Iterable[Piece], left: float) -> list[PlacedPiece]:
        drawn = (replace(piece, text=self.typeface.drawable(piece.text, piece.style)) for piece in pieces)
        return lay_out(drawn, self.width - left - MARGIN, self.typeface.width)

    def _add_texts(self, placed: Iterable[PlacedPiece], left: float, pitch: float) -> None:
        """Add the texts: each token alone, other pieces in runs that are as long as possible, so that other fonts look right too."""
        runs: list[tuple[PlacedPiece, str]] = []
        for item in placed:
            before = runs[-1][0] if runs else None
            if (
                before
                and not (item.piece.labels or before.piece.labels)
                and (before.line, before.piece.style) == (item.line, item.piece.style)
            ):
                runs[-1] = (before, runs[-1][1] + item.lead + item.piece.text)
            else:
                runs.append((item, item.piece.text))
        for first, text in runs:
            self.marks.append(TextMark(left + first.x, self.y + first.line * pitch + BOX_ASCENT, text, first.piece.style))

    def add_legend(self, explanation: str, failures: Iterable[str]) -> None:
        """Add the colour scale, what the colours mean, and the methods that failed."""
        self.y += 7.0
        baseline, x, wide, steps = self.y + BOX_ASCENT, MARGIN, 96.0, 96
        self.marks.append(TextMark(x, baseline, "opposes", SMALL))
        x += self.typeface.width("opposes", SMALL) + 4.0
        for step in range(steps):
            share, start = 2 * (step + 0.5) / steps - 1, x + wide * step / steps
            across = wide / steps + 0.3 * (step < steps - 1)
            self.marks.append(Rectangle(start, baseline - 5.6, across, 6.6, colour(share)))
            self.marks += [Rectangle(start, baseline + 0.1, across, 0.9, rule(share))] * (share < 0)
        self.marks.append(TextMark(x + (wide - self.typeface.width("0", RANGE)) / 2, baseline - 0.2, "0", RANGE))
        x += wide + 4.0
        self.marks.append(TextMark(x, baseline, "supports", SMALL))
        x += self.typeface.width("supports", SMALL) + 12.0
        if self.width - x < MIN_LEGEND_ROOM:
            self.y, x = self.y + PROSE_LINE_HEIGHT, MARGIN
        self.add_prose(_split_words("; ".join([explanation, *(f"no scores from {visible(name)}" for name in failures)]), SMALL), x)

    def _break_name(self, name: str) -> list[str]:
        """A method's name in lines."""
        lines = [""]
        for part in re.findall(r"[^_]*_+|[^_]+$", visible(name)):
            if lines[-1] and self.typeface.width(lines[-1] + part, NAME) > MAX_NAME_WIDTH:
                lines.append("")
            lines[-1] += part
        return lines


def _pieces(attribution: Attribution, labelled: LabelledScores, row: int) -> Iterator[Piece]:
    """The tokens before a target, and the target."""
    target, special, done = attribution.targets[row], attribution.prompt.special, list[Piece]()
    for token, text in enumerate(readable_tokens(attribution.prompt)[: target.context or len(attribution.prompt)]):
        labels = (labelled.label_of[token],)
        if done and not text and attribution.tokens[token].startswith("<0x"):
            done[-1] = replace(done[-1], labels=done[-1].labels + labels)
        else:
            parts = re.findall("[^\u23ce]*\u23ce+|[^\u23ce]+$|^$", visible(text))
            done += [Piece(part, SPECIAL if special[token] else TOKEN, labels, part.endswith("\u23ce")) for part in parts]
    for piece, following in zip_longest(done, done[1:]):
        yield replace(piece, ends_line=piece.ends_line and not (following and following.ends_line and not following.text.strip("\u23ce")))
    yield Piece("\u2192" if done and done[-1].ends_line else "  \u2192", ARROW)
    yield from _predicted(target)


def _predicted(target: Target) -> Iterator[Piece]:
    first, *others = _split_words(f" {_target_text(target)}", PREDICTED)
    yield replace(first, glued=True)
    yield from others
    if target.foil:
        yield from _split_words(f", not {_target_text(target.foil)}", ARROW)


def _target_text(target: Target) -> str:
    """The text of a target. A target of nothing but spaces becomes open boxes; a function has its name."""
    text = visible(join_tokens(target.tokens))
    return text.strip(" ") or "\u2423" * len(text) or visible(target.quantity)


def _split_words(text: str, style: TextStyle) -> list[Piece]:
    """The words of a sentence."""
    return [Piece(word, style) for word in re.findall(r" *[^ ]+| +$", text)]


def _sentence(text: Text) -> Iterator[Piece]:
    """The terminal's question in pieces, with the same parts bold."""
    bold = [False] * len(text.plain)
    for span in text.spans:
        bold[span.start : span.end] = ["bold" in str(span.style)] * (span.end - span.start)
    for word in re.finditer(r" *[^ ]+", text.plain):
        for emphasis, places in groupby(range(*word.span()), key=bold.__getitem__):
            yield Piece("".join(text.plain[place] for place in places), EMPHASIS if emphasis else QUESTION)


def _widest(halves: np.ndarray) -> str:
    """The widest interval of a row."""
    return f"95 %: \u00b1{halves.max(initial=0.0):.2g}"


def _explain_marks(by: str, normalization: str, tables: Iterable[LabelledScores]) -> str:
    """What the colours are shares of, and what dots mean."""
    parts = ["share of the largest |score| of each row (\u00b1)"]
    parts += [f"summed over each {by}"] if by != "token" else []
    text = ", ".join(parts + ([f"after {normalization}"] if normalization != "none" else []))
    return text + "; 95 %: the widest interval; dotted: an interval that holds 0" * any(labelled.halves is not None for labelled in tables)
