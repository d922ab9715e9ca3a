"""Running text set in lines: where each piece of it stands, and the boxes behind it. Lengths are in points."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

Colour = tuple[float, float, float]
INK: Colour = (0.07, 0.07, 0.07)

EDGE = 1.1
"""How far a box reaches beyond its text, where there is room."""
HAIR = 0.5
"""What stays white between two boxes."""
JOINT = 1.0
"""Between the letters of two tokens of one word."""
LOOSE = 1.0
"""What a space is widened by, so that words stay further apart than the tokens of a word."""


@dataclass(frozen=True)
class Look:
    """How text is set."""

    size: float
    bold: bool = False
    italic: bool = False
    colour: Colour = INK


@dataclass(frozen=True)
class Piece:
    """Text that is set as one: a token, or a word of a sentence. A leading space may become the end of a line."""

    text: str
    look: Look
    labels: tuple[int | None, ...] = ()
    """What it belongs to, for the boxes; several share the piece evenly, None has no box."""
    ends_line: bool = False
    glued: bool = False
    """Never parted from what precedes it, unless the two are wider than a line."""


@dataclass(frozen=True)
class Put:
    """A piece in its place: its letters are from `x` to `x + width`, on a line counted from 0."""

    piece: Piece
    """Without its leading spaces; of one that no line holds, a part."""
    x: float
    width: float
    line: int
    lead: str = ""
    """The spaces that were left out."""


@dataclass(frozen=True)
class Box:
    """The background of one label on one line."""

    label: int
    left: float
    right: float
    line: int


LogitFn = Callable[[str, Look], float]


def flow(pieces: Iterable[Piece], width: float, measure: LogitFn) -> list[Put]:
    """The pieces in lines of at most `width`; broken at spaces, between ideographs, and else only where a word is too long."""
    putting = _Putting(width, measure)
    for word in _words(pieces):
        putting.word(word)
    return putting.done


def boxes(puts: Sequence[Put]) -> list[Box]:
    """What lies behind the pieces: one box for each label on each line, as long as nothing of another stands between."""
    found: list[Box] = []
    for put, (before, after) in zip(puts, _margins(puts), strict=True):
        share = put.width / max(1, len(put.piece.labels))
        cuts = [put.x - before, *(put.x + share * n for n in range(1, len(put.piece.labels))), put.x + put.width + after]
        for label, (left, right) in zip(put.piece.labels, pairwise(cuts), strict=False):
            last = found[-1] if found else None
            if label is None:
                continue
            if last and (last.label, last.line) == (label, put.line) and left - last.right < HAIR / 2:
                found[-1] = replace(last, right=right)
            else:
                found.append(Box(label, left, right, put.line))
    return found


def lines(puts: Sequence[Put]) -> int:
    """How many lines there are, at least one."""
    return puts[-1].line + 1 if puts else 1


class _Putting:
    """The state while text is set: the line, and where it has got to."""

    def __init__(self, width: float, measure: LogitFn) -> None:
        self.width, self.measure = width, measure
        self.done: list[Put] = []
        self.line = 0

    def word(self, word: Sequence[Piece]) -> None:
        end = self._end_of(word)
        if self._previous() and end > self.width:
            self.line += 1
        for piece in word:
            self._piece(piece)

    def _piece(self, piece: Piece) -> None:
        """Placed behind the previous one, on the next line, or in parts where no line would hold it."""
        lead, text = _parted(piece.text)
        x, width = self._start(piece, lead), self.measure(text, piece.look)
        if x + width + EDGE > self.width and self._previous():
            self.line += 1
            x = EDGE
        while x + width + EDGE > self.width and len(text) > 1:
            fits = self._fitting(text, piece.look, self.width - x - EDGE)
            self.done.append(Put(replace(piece, text=text[:fits]), x, self.measure(text[:fits], piece.look), self.line, lead))
            self.line += 1
            lead, text, x = "", text[fits:], EDGE
            width = self.measure(text, piece.look)
        self.done.append(Put(replace(piece, text=text), x, width, self.line, lead))
        self.line += piece.ends_line

    def _start(self, piece: Piece, lead: str) -> float:
        previous, indent = self._previous(), self.measure(lead, piece.look)
        if previous is None:
            begins = not self.done or self.done[-1].piece.ends_line
            return EDGE + (indent if begins else 0.0)
        return previous.x + previous.width + _gap(previous.piece, piece, indent)

    def _previous(self) -> Put | None:
        return self.done[-1] if self.done and self.done[-1].line == self.line else None

    def _end_of(self, word: Sequence[Piece]) -> float:
        """Where the word would end on this line."""
        previous = self._previous()
        x, before = (previous.x + previous.width, previous.piece) if previous else (EDGE, None)
        for piece in word:
            lead, text = _parted(piece.text)
            x += (_gap(before, piece, self.measure(lead, piece.look)) if before else 0.0) + self.measure(text, piece.look)
            before = piece
        return x + EDGE

    def _fitting(self, text: str, look: Look, room: float) -> int:
        """How many characters fit, at least one."""
        used = 0.0
        for count, character in enumerate(text):
            used += self.measure(character, look)
            if used > room and count:
                return count
        return len(text) - 1


def _words(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces between which no line should end."""
    word: list[Piece] = []
    for piece in pieces:
        opens = not piece.glued and (piece.text[:1].isspace() or unicodedata.east_asian_width(piece.text[:1] or "a") in "WF")
        if word and (opens or word[-1].ends_line):
            yield word
            word = []
        word.append(piece)
    if word:
        yield word


def _parted(text: str) -> tuple[str, str]:
    """Leading spaces, and the rest; text of nothing but spaces is all rest."""
    rest = text.lstrip(" ")
    return (text[: len(text) - len(rest)], rest) if rest else ("", text)


def _same(one: Piece, other: Piece) -> bool:
    return bool(one.labels and other.labels) and one.labels[-1] is not None and one.labels[-1] == other.labels[0]


def _gap(one: Piece, other: Piece, space: float) -> float:
    """Between the letters of two neighbours; nothing but the space inside a unit and outside all."""
    if one.labels[-1:] == other.labels[:1]:
        return space
    return space + LOOSE if space else JOINT


def _margins(puts: Sequence[Put]) -> list[tuple[float, float]]:
    """How far each piece's box reaches to its left and right: `EDGE`, less between close neighbours, all within a unit."""
    inner = [_margin(one, other) for one, other in pairwise(puts)]
    return list(zip([EDGE, *inner], [*inner, EDGE], strict=True)) if puts else []


def _margin(one: Put, other: Put) -> float:
    if one.line != other.line:
        return EDGE
    gap = other.x - one.x - one.width
    return gap / 2 if _same(one.piece, other.piece) else min(EDGE, max(0.0, gap - HAIR) / 2)
