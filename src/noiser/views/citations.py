"""Numbered citations: for each statement of an answer the sources that support it most, and the text in each that does."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import norm
from scipy.stats import t as student_t

from noiser.text.prompt import Prompt
from noiser.views.sources import SourceMap, SourcePart, source_key, text_of

QUOTE = 160
"""Characters of the text that stands for a source in a citation."""
CITED, WORTH = 3, 0.1
"""How many sources are cited for a statement at most, and which share each has at least."""
DOTS = "\u2026"


@dataclass(frozen=True)
class Use:
    """A statement that cites a source."""

    statement: int
    """Its number, from 0."""
    share: float
    """The source's share of the sizes of all scores, 0 to 1."""
    stderr: float | None
    """Standard error of the share."""
    confidence: float | None
    """How sure it is that the source's score is above 0 and above that of every source that is not cited, 0 to 1; None without standard
    errors. It is about the random draws of the method, not about whether the method is right: docs/long.md has how often it is."""


@dataclass(frozen=True)
class Citation:
    """A source that is cited for one statement or more."""

    number: int
    """From 1, in the order of the answer."""
    name: str
    excerpt: str
    """The finest text in it that speaks for the statement where its share is largest."""
    uses: tuple["Use", ...]
    """One for each statement that cites it."""


def citations(sources: SourceMap, most: int = CITED, at_least: float = WORTH) -> tuple[list[list[int]], list[Citation]]:
    """For each statement the numbers of the sources that support it most, and those sources.

    A source is cited if it has at least the share `at_least` of a statement and its score is above 0, `most` sources for a statement.
    """
    numbers: dict[tuple[str, int], int] = {}
    cited: dict[int, list[tuple[SourcePart, Use]]] = defaultdict(list)
    marks = []
    for place, statement in enumerate(sources.statements):
        chosen = [part for part in statement.strongest() if part.score > 0 and part.share >= at_least][:most]
        marks.append([numbers.setdefault(source_key(part), len(numbers) + 1) for part in chosen])
        others = [part for part in statement.sources if part not in chosen]
        for number, part in zip(marks[-1], chosen, strict=True):
            cited[number].append((part, Use(place, part.share, part.share_stderr, confidence(part, others, statement.dof))))
    found = []
    for number, pairs in cited.items():
        best, _ = max(pairs, key=lambda pair: pair[1].share)
        found.append(Citation(number, best.name, excerpt(best, sources.prompt), tuple(use for _, use in pairs)))
    return marks, found


def confidence(part: SourcePart, others: Sequence[SourcePart], dof: int | None) -> float | None:
    """The chance that what was measured for this part is above 0 and above what was measured for each of the others, the smallest of all
    comparisons: Student's t with the parts' standard errors. None if the method has none."""
    if part.stderr is None:
        return None
    rivals = [(0.0, 0.0), *((other.raw, other.stderr or 0.0) for other in others)]
    chances = [_chance(part.raw - raw, math.hypot(part.stderr, stderr), dof) for raw, stderr in rivals]
    return min(chances)


def _chance(difference: float, stderr: float, dof: int | None) -> float:
    """The chance that a difference with this standard error is truly above 0."""
    if not stderr:
        return float(difference > 0)
    return float(student_t.cdf(difference / stderr, dof) if dof else norm.cdf(difference / stderr))


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
