"""Sets running text in lines: the place of each piece of text, and the boxes behind the pieces. Lengths are in points."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

Colour = tuple[float, float, float]
INK: Colour = (0.07, 0.07, 0.07)

EDGE = 1.1
"""How far a box reaches beyond its text, if there is room."""
MIN_GAP = 0.5
"""White space between two boxes."""
TOKEN_GAP = 1.0
"""Space between the letters of two tokens of one word."""
EXTRA_SPACE = 1.0
"""Added to a space, so that words stand further apart than the tokens of a word."""


@dataclass(frozen=True)
class TextStyle:
    """Size, weight, slant and colour of text."""

    size: float
    bold: bool = False
    italic: bool = False
    colour: Colour = INK


@dataclass(frozen=True)
class Piece:
    """Text that is set as one: a token, or a word of a sentence. A line may break at its leading space."""

    text: str
    style: TextStyle
    labels: tuple[int | None, ...] = ()
    """The labels whose boxes lie behind it. Several labels share the piece evenly; None has no box."""
    ends_line: bool = False
    glued: bool = False
    """It stays on the line of the piece before it, unless the two are wider than a line."""


@dataclass(frozen=True)
class PlacedPiece:
    """A piece with its place: its letters reach from `x` to `x + width`, on a line counted from 0."""

    piece: Piece
    """Without its leading spaces. A piece that is wider than a line is split into several."""
    x: float
    width: float
    line: int
    lead: str = ""
    """The leading spaces that were removed."""


@dataclass(frozen=True)
class Box:
    """The background of one label on one line."""

    label: int
    left: float
    right: float
    line: int


MeasureText = Callable[[str, TextStyle], float]


def lay_out(pieces: Iterable[Piece], width: float, measure: MeasureText) -> list[PlacedPiece]:
    """The pieces in lines of at most `width`. Lines break at spaces, between ideographs, and inside a word that is wider than a line."""
    layout = _Layout(width, measure)
    for word in _words(pieces):
        layout.add_word(word)
    return layout.done


def boxes(placed: Sequence[PlacedPiece]) -> list[Box]:
    """The boxes behind the pieces: one for each label on each line, or several if another label stands between."""
    result: list[Box] = []
    for item, (before, after) in zip(placed, _box_margins(placed), strict=True):
        labels = item.piece.labels
        share = item.width / max(1, len(labels))
        cuts = [item.x - before, *(item.x + share * n for n in range(1, len(labels))), item.x + item.width + after]
        for label, (left, right) in zip(labels, pairwise(cuts), strict=False):
            last = result[-1] if result else None
            if label is None:
                continue
            if last and (last.label, last.line) == (label, item.line) and left - last.right < MIN_GAP / 2:
                result[-1] = replace(last, right=right)
            else:
                result.append(Box(label, left, right, item.line))
    return result


def line_count(placed: Sequence[PlacedPiece]) -> int:
    """The number of lines, at least one."""
    return placed[-1].line + 1 if placed else 1


class _Layout:
    """The state while text is set: the pieces placed so far, and the current line."""

    def __init__(self, width: float, measure: MeasureText) -> None:
        self.width, self.measure = width, measure
        self.done: list[PlacedPiece] = []
        self.line = 0

    def add_word(self, word: Sequence[Piece]) -> None:
        end = self._end_of_word(word)
        if self._previous() and end > self.width:
            self.line += 1
        for piece in word:
            self._add_piece(piece)

    def _add_piece(self, piece: Piece) -> None:
        """Place a piece after the previous one, on the next line, or in parts if it is wider than a line."""
        lead, text = _split_leading_spaces(piece.text)
        x, width = self._start_of(piece, lead), self.measure(text, piece.style)
        if x + width + EDGE > self.width and self._previous():
            self.line += 1
            x = EDGE
        while x + width + EDGE > self.width and len(text) > 1:
            fits = self._count_that_fits(text, piece.style, self.width - x - EDGE)
            self.done.append(PlacedPiece(replace(piece, text=text[:fits]), x, self.measure(text[:fits], piece.style), self.line, lead))
            self.line += 1
            lead, text, x = "", text[fits:], EDGE
            width = self.measure(text, piece.style)
        self.done.append(PlacedPiece(replace(piece, text=text), x, width, self.line, lead))
        self.line += piece.ends_line

    def _start_of(self, piece: Piece, lead: str) -> float:
        previous, indent = self._previous(), self.measure(lead, piece.style)
        if previous is None:
            begins = not self.done or self.done[-1].piece.ends_line
            return EDGE + (indent if begins else 0.0)
        return previous.x + previous.width + _gap(previous.piece, piece, indent)

    def _previous(self) -> PlacedPiece | None:
        return self.done[-1] if self.done and self.done[-1].line == self.line else None

    def _end_of_word(self, word: Sequence[Piece]) -> float:
        """Where the word would end on the current line."""
        previous = self._previous()
        x, before = (previous.x + previous.width, previous.piece) if previous else (EDGE, None)
        for piece in word:
            lead, text = _split_leading_spaces(piece.text)
            x += (_gap(before, piece, self.measure(lead, piece.style)) if before else 0.0) + self.measure(text, piece.style)
            before = piece
        return x + EDGE

    def _count_that_fits(self, text: str, style: TextStyle, room: float) -> int:
        """How many characters fit into `room`, at least one."""
        used = 0.0
        for count, character in enumerate(text):
            used += self.measure(character, style)
            if used > room and count:
                return count
        return len(text) - 1


def _words(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Groups of pieces between which no line should break."""
    word: list[Piece] = []
    for piece in pieces:
        opens = not piece.glued and (piece.text[:1].isspace() or unicodedata.east_asian_width(piece.text[:1] or "a") in "WF")
        if word and (opens or word[-1].ends_line):
            yield word
            word = []
        word.append(piece)
    if word:
        yield word


def _split_leading_spaces(text: str) -> tuple[str, str]:
    """The leading spaces and the rest. Text of nothing but spaces is all rest."""
    rest = text.lstrip(" ")
    return (text[: len(text) - len(rest)], rest) if rest else ("", text)


def _same_unit(one: Piece, other: Piece) -> bool:
    return bool(one.labels and other.labels) and one.labels[-1] is not None and one.labels[-1] == other.labels[0]


def _gap(one: Piece, other: Piece, space: float) -> float:
    """The distance between the letters of two neighbours. Inside a unit, and outside all units, it is just the space."""
    if one.labels[-1:] == other.labels[:1]:
        return space
    return space + EXTRA_SPACE if space else TOKEN_GAP


def _box_margins(placed: Sequence[PlacedPiece]) -> list[tuple[float, float]]:
    """How far each piece's box reaches to its left and right: EDGE, less between close neighbours, and the whole gap inside a unit."""
    inner = [_box_margin(one, other) for one, other in pairwise(placed)]
    return list(zip([EDGE, *inner], [*inner, EDGE], strict=True)) if placed else []


def _box_margin(one: PlacedPiece, other: PlacedPiece) -> float:
    if one.line != other.line:
        return EDGE
    gap = other.x - one.x - one.width
    return gap / 2 if _same_unit(one.piece, other.piece) else min(EDGE, max(0.0, gap - MIN_GAP) / 2)
