"""The data of the view of sources: each source once, and for each method and statement the tree of what was measured.

A part is a list: its source (at the top) or its level, its tokens as ranges (start, stop, start, stop ...), its score, what was measured
if that differs, its standard error, whether it was measured as a whole though it could be divided, and its parts. What is empty at
the end is left out. Its text is that of its tokens, which stand in the page once.
"""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from noiser.results.attribution import Attribution
from noiser.views.citations import citations
from noiser.views.labels import visible
from noiser.views.sources import SourceMap, SourcePart, has_sources, has_tree, read_sources, source_key, text_of

View = dict[str, Any]
MAX_TOKENS = 4000
"""A page about a longer prompt has no scores of single tokens: ten thousands of elements make a page slow, and nobody reads them."""
OPENS = 400
"""From this number of tokens on, a page with sources opens with them."""
LEVELS = ("span", "answer", "paragraph", "line", "sentence", "word", "token")
EXCERPT = 90
"""Characters of the beginning of a source in its tip."""


def is_long(attribution: Attribution) -> bool:
    """Whether a page about it shows sources only, and no single tokens."""
    return len(attribution.prompt) > MAX_TOKENS


def sources_data(attributions: Sequence[Attribution]) -> View | None:
    """The sources of these methods' scores, one method for each Attribution; None if the prompt has no sources to show.

    A long prompt always has some: without named spans its paragraphs or sentences are its sources.
    """
    first = attributions[0]
    if not first.targets or not (has_sources(first) or is_long(first)):
        return None
    maps = [read_sources([attribution]) for attribution in attributions]
    parts = [part for each in maps for statement in each.statements for part in statement.sources]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(map(source_key, sorted(parts, key=lambda part: part.tokens))))}
    longest = {source_key(part): part for part in sorted(parts, key=lambda part: len(part.tokens))}
    return {
        "levels": list(LEVELS),
        "list": [_source(longest[key], maps[0]) for key in numbers],
        "given": maps[0].given,
        "answer": [[visible(text), number] for text, number in maps[0].answer],
        "rows": [_row(each, numbers) for each in maps],
        "opens": has_tree(first) or first.unit == "span" or len(first.prompt) > OPENS or not first.prompt.turns,
        "tokens": not is_long(first),
    }


def _source(part: SourcePart, found: SourceMap) -> View:
    text = text_of(found.prompt, part.tokens)
    excerpt = " ".join(text[: 2 * EXCERPT].split())[:EXCERPT]
    return {"name": visible(part.name), "level": part.level, "tokens": ranges(part.tokens), "excerpt": visible(excerpt)}


def _row(found: SourceMap, numbers: dict[tuple[str, int], int]) -> View:
    marks, cited = citations(found)
    return {
        "statements": [
            {
                "text": visible(statement.text),
                "start": statement.start,
                "rest": _rounded(statement.rest),
                "parts": [_part(part, numbers[source_key(part)]) for part in statement.sources],
            }
            for statement in found.statements
        ],
        "marks": marks,
        "citations": [
            {
                "number": each.number,
                "name": visible(each.name),
                "excerpt": visible(each.excerpt),
                "uses": [list(astuple(use)) for use in each.uses],
            }
            for each in cited
        ],
    }


def _part(part: SourcePart, first: int) -> list[Any]:
    raw = None if part.raw == part.score else _rounded(part.raw)
    stderr = None if part.stderr is None else _rounded(part.stderr)
    parts = [_part(each, LEVELS.index(each.level)) for each in part.parts]
    own = [first, ranges(part.tokens), _rounded(part.score), raw, stderr, int(part.whole), parts]
    empty = [False] * 3 + [raw is None, stderr is None, not part.whole, not parts]
    return own[: max(place for place, is_empty in enumerate(empty, 1) if not is_empty)]


def ranges(tokens: Sequence[int]) -> list[int]:
    """Ascending positions as ranges: the first and one past the last of each run."""
    found: list[int] = []
    for token in tokens:
        if found and found[-1] == token:
            found[-1] += 1
        else:
            found += [token, token + 1]
    return found


def _rounded(value: float) -> float:
    """Six digits: enough for what is shown, and a third of the bytes."""
    return float(f"{value:.6g}")
