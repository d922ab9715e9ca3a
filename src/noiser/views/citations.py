"""Numbered citations: for each statement of an answer the sources that support it most, and the text in each that does."""

from collections import defaultdict
from dataclasses import dataclass

from noiser.text.prompt import Prompt
from noiser.views.sources import SourceMap, SourcePart, source_key, text_of

QUOTE = 160
"""Characters of the text that stands for a source in a citation."""
CITED, WORTH = 3, 0.1
"""How many sources are cited for a statement at most, and which share each has at least."""
DOTS = "\u2026"


@dataclass(frozen=True)
class Citation:
    """A source that is cited for one statement or more."""

    number: int
    """From 1, in the order of the answer."""
    name: str
    excerpt: str
    """The finest text in it that speaks for the statement where its share is largest."""
    uses: tuple[tuple[int, float, float | None], ...]
    """For each statement that cites it: the statement's number from 0, the share, and its standard error."""


def citations(sources: SourceMap, most: int = CITED, at_least: float = WORTH) -> tuple[list[list[int]], list[Citation]]:
    """For each statement the numbers of the sources that support it most, and those sources.

    A source is cited if it has at least the share `at_least` of a statement and its score is above 0, `most` sources for a statement.
    """
    numbers: dict[tuple[str, int], int] = {}
    uses: dict[int, list[tuple[int, SourcePart]]] = defaultdict(list)
    marks = []
    for place, statement in enumerate(sources.statements):
        chosen = [part for part in statement.strongest() if part.score > 0 and part.share >= at_least][:most]
        marks.append([numbers.setdefault(source_key(part), len(numbers) + 1) for part in chosen])
        for number, part in zip(marks[-1], chosen, strict=True):
            uses[number].append((place, part))
    found = []
    for number, cited in uses.items():
        best = max((part for _, part in cited), key=lambda part: part.share)
        shares = tuple((place, part.share, part.share_stderr) for place, part in cited)
        found.append(Citation(number, best.name, excerpt(best, sources.prompt), shares))
    return marks, found


def excerpt(part: SourcePart, prompt: Prompt, most: int = QUOTE) -> str:
    """The text of the finest part inside that speaks most in the direction of the whole, down to a sentence, in one line.

    A longer one is cut, around its strongest word if words were measured.
    """
    sign = 1 if part.score >= 0 else -1
    while part.parts and part.parts[0].level not in ("word", "token"):
        part = max(part.parts, key=lambda each: sign * each.score)
    text = " ".join(text_of(prompt, part.tokens).split())
    if len(text) <= most:
        return text
    words = max(part.parts, key=lambda each: sign * each.score).tokens if part.parts else part.tokens[:1]
    before = len(" ".join(text_of(prompt, tuple(token for token in part.tokens if token < words[0])).split()))
    start = max(0, min(before - most // 2, len(text) - most + 2))
    cut = text[start : start + most - 2].strip()
    return DOTS * (start > 0) + cut + DOTS * (start + most - 2 < len(text))
