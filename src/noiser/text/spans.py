"""Named parts of a prompt: sources, documents, messages and their parts. They may lie inside each other, and never cross."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, pairwise
from typing import Any

from noiser.errors import OptionError

EXAMPLE = '[{"name": "doc-2", "start": 120, "stop": 640}]'
FIELDS = {"name", "start", "stop"}


@dataclass(frozen=True)
class NamedSpan:
    """A part of a prompt's text with a name."""

    name: str
    start: int
    """Its first character in the prompt's text."""
    stop: int
    """One past its last."""

    def holds(self, token: tuple[int, int], text: str) -> bool:
        """Whether at least half of a token's characters are in this span. Spaces count only in a token of spaces: ` Hi` belongs to `Hi`,
        though its space may stand before the span."""
        start, stop = max(token[0], self.start), min(token[1], self.stop)
        if start >= stop:
            return self.start < token[0] == token[1] < self.stop
        inside, whole = ("".join(text[slice(*part)].split()) for part in ((start, stop), token))
        return 2 * len(inside) >= len(whole) and (bool(inside) or not whole)


def read_spans(given: Any, text: str) -> tuple[NamedSpan, ...]:
    """The spans of a text in its order, outer ones first.

    `given` is a list of mappings as in EXAMPLE, or of NamedSpan; `start` and `stop` count characters. Raises OptionError for anything
    else, for a name that comes twice, for a span that reaches beyond the text, and for two that cross.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise OptionError(f"spans are a list, {EXAMPLE}; got {given!r:.100}")
    spans = sorted((_read_span(each, text) for each in given), key=lambda span: (span.start, -span.stop))
    names = [span.name for span in spans]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(f"each span needs a name of its own; {', '.join(map(repr, twice))} came twice")
    _check_nesting(spans)
    return tuple(spans)


def _read_span(given: Any, text: str) -> NamedSpan:
    if isinstance(given, NamedSpan):
        given = vars(given)
    if not isinstance(given, Mapping) or set(given) != FIELDS:
        raise OptionError(f"a span has the fields name, start and stop, {EXAMPLE}; got {given!r:.100}")
    name, start, stop = given["name"], given["start"], given["stop"]
    if not isinstance(name, str) or not name.strip():
        raise OptionError(f"a span's name is a text that is not empty; got {name!r:.100}")
    if any(not isinstance(end, int) or isinstance(end, bool) for end in (start, stop)) or not 0 <= start <= stop:
        raise OptionError(f"span {name!r}: start and stop count characters from 0, start first; got {start!r} and {stop!r}")
    if stop > len(text):
        raise OptionError(f"span {name!r} ends at character {stop}, and the prompt has {len(text)}")
    return NamedSpan(name, start, stop)


def merged(outer: Iterable[NamedSpan], inner: Iterable[NamedSpan]) -> tuple[NamedSpan, ...]:
    """Both in order. An outer span gives way to an inner one of its name, and to one that it crosses."""
    inner = list(inner)
    names = {span.name for span in inner}
    kept = [span for span in outer if span.name not in names and not any(crosses(span, other) for other in inner)]
    return tuple(sorted([*kept, *inner], key=lambda span: (span.start, -span.stop)))


def crosses(one: NamedSpan, other: NamedSpan) -> bool:
    """Whether two spans share characters and neither holds the other."""
    first, second = sorted((one, other), key=lambda span: (span.start, -span.stop))
    return first.start < second.start < first.stop < second.stop


def _check_nesting(spans: Sequence[NamedSpan]) -> None:
    """Of two spans one holds the other, or they share no character. `spans` are in order, outer ones first."""
    around: list[NamedSpan] = []
    for span in spans:
        while around and around[-1].stop <= span.start:
            around.pop()
        if around and around[-1].stop < span.stop:
            raise OptionError(
                f"spans {around[-1].name!r} and {span.name!r} cross: one may hold the other, or they may follow each other, but not this"
            )
        around.append(span)


def innermost(spans: Sequence[NamedSpan], tokens: Sequence[tuple[int, int]], text: str) -> list[int | None]:
    """For each token the number of the smallest span that holds it; of equal ones the last. None if none does.

    `tokens` are their offsets in the text. In order, as they nearly always are, only the tokens near a span are looked at.
    """
    found: list[int | None] = [None] * len(tokens)
    stops = [stop for _, stop in tokens]
    in_order = all(a <= b for a, b in pairwise(tokens)) and all(a <= b for a, b in pairwise(stops))
    for number, span in sorted(enumerate(spans), key=lambda each: each[1].start - each[1].stop):  # the largest first, equal ones in order
        near = range(len(tokens))
        if in_order:
            near = range(bisect_left(stops, span.start), bisect_right(tokens, (span.stop, len(text))))
        for token in near:
            if span.holds(tokens[token], text):
                found[token] = number
    return found


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or with the first number that nobody has: `look`, `look (2)`."""
    names = chain([name], (f"{name} ({number})" for number in count(2)))
    return next(each for each in names if each not in taken)


def within(spans: Iterable[NamedSpan], length: int) -> tuple[NamedSpan, ...]:
    """The spans of the first `length` characters. One that reaches beyond them is cut."""
    return tuple(NamedSpan(span.name, span.start, min(span.stop, length)) for span in spans if span.start < length)
