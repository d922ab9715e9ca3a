"""Tokens grouped into words, sentences, lines, turns and named spans, so that scores can be summed over them."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from operator import itemgetter

import numpy as np
import regex
from jaxtyping import Float

from noiser.errors import OptionError, require_extra
from noiser.text.prompt import Prompt
from noiser.text.spans import innermost

Span = tuple[int, int]
"""First and one past the last character."""

PUNCTUATION = r"(?:[\p{P}\p{Sc}\p{Sm}^`](?!\p{M}))*"
"""Includes currency and mathematical signs. A sign with a combining mark is part of a symbol, as in a keycap emoji."""
DENSE = r"[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Thai}\p{scx=Lao}\p{scx=Khmer}\p{scx=Myanmar}--\p{P}]"
"""A character of a script without spaces between words."""
PIECE = regex.compile(rf"(?V1)(?P<dense>(?:{DENSE}\p{{M}}*)+)|(?:(?!{DENSE})\S)+")
EDGES = regex.compile(rf"(?P<front>{PUNCTUATION})(?P<core>\S*?)(?P<back>{PUNCTUATION})")
BOUNDED = regex.compile(r"(?sw).+?\b")
"""One word between Unicode's default boundaries (UAX 29), which use no dictionary."""
LINE = regex.compile(r"[^\n\r\x85\u2028\u2029]+")
BLANK = regex.compile(r"(?:\r\n|[\n\r\x85\u2028])\s*(?:\r\n|[\n\r\x85\u2028])|\u2029")
SPACE = regex.compile(r"\s")
UNPADDED = regex.compile(r"\S(?:.*\S)?", regex.DOTALL)


def words(text: str) -> Iterator[Span]:
    """Maximal runs of non-space characters. Punctuation at the ends of a run is a word of its own.

    In scripts without spaces, Unicode word boundaries divide a run further.
    """
    for piece in PIECE.finditer(text):
        if piece["dense"]:
            yield from (word.span() for word in BOUNDED.finditer(text, *piece.span()))
        else:
            parts = EDGES.fullmatch(text, *piece.span())
            assert parts, "a run has edges and a core, any of them empty"
            yield from (parts.span(name) for name in ("front", "core", "back") if parts[name])


def lines(text: str) -> Iterator[Span]:
    """The text between newlines, with its indentation. Blank lines are left out."""
    return (line.span() for line in LINE.finditer(text) if SPACE.sub("", line[0]))


def paragraphs(text: str) -> Iterator[Span]:
    """The text between blank lines, without the space around it."""
    start = 0
    for stop, following in [*(gap.span() for gap in BLANK.finditer(text)), (len(text), len(text))]:
        if (inner := UNPADDED.search(text, start, stop)) is not None:
            yield inner.span()
        start = following


def sentences(text: str) -> Iterator[Span]:
    """The sentences of each line, without the space around them. Raises MissingExtraError if sentencex is missing."""
    require_extra("units", "the unit `sentence`")
    from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]  (compiled, and without stubs)

    for start, stop in lines(text):
        # sentencex panics on spaces of several bytes, such as U+00A0. A plain space keeps the positions.
        for sentence in segment("en", SPACE.sub(" ", text[start:stop])):
            inner = UNPADDED.search(text, start, start + len(sentence))
            start += len(sentence)
            if inner:
                yield inner.span()
        assert start == stop, "sentences make up the line"


def treebank(text: str) -> Iterator[Span]:
    """The words of the Penn Treebank tokenizer, which splits off punctuation and splits contractions in two.

    Raises MissingExtraError if nltk is missing.

    Source: nltk's `NLTKWordTokenizer`, applied to the whole text without splitting it into sentences.
    """
    require_extra("units", "words=treebank")
    from nltk.tokenize.destructive import NLTKWordTokenizer

    yield from NLTKWordTokenizer().span_tokenize(text)


CUTS: dict[str, Callable[[str], Iterable[Span]]] = {
    "word": words, "treebank": treebank, "sentence": sentences, "line": lines, "paragraph": paragraphs,
}  # fmt: skip
UNITS = ("token", *CUTS, "turn", "span")


def is_available(kind: str) -> bool:
    """Whether the package that a kind of units needs is installed."""
    needs = {"sentence": "sentencex", "treebank": "nltk"}.get(kind)
    return needs is None or find_spec(needs) is not None


@dataclass(frozen=True)
class Units:
    """The unit of each token of a prompt. A token belongs to one unit or to none, and every unit has at least one token."""

    kind: str
    of: tuple[int | None, ...]
    """The unit of each token, numbered from 0 in the order of the text. None for a token without a unit."""
    texts: tuple[str, ...]
    """The text of each unit; of a named span its name."""

    @cached_property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The positions of each unit's tokens."""
        members: list[list[int]] = [[] for _ in self.texts]
        for token, unit in enumerate(self.of):
            if unit is not None:
                members[unit].append(token)
        return tuple(map(tuple, members))

    def sums(self, scores: Float[np.ndarray, "targets seq"]) -> tuple[Float[np.ndarray, "targets units"], Float[np.ndarray, " targets"]]:
        """The sum of the scores in each unit, and the sum over tokens without a unit. Together they are the row's whole sum."""
        binned = np.zeros((len(self.texts) + 1, len(scores)))
        np.add.at(binned, self._bins, scores.T)
        return binned[:-1].T, binned[-1]

    def spread(self, values: Float[np.ndarray, " units"]) -> Float[np.ndarray, " seq"]:
        """Each unit's value divided evenly among its tokens, and 0 for tokens without a unit. `sums` is the inverse."""
        counts = np.array([len(tokens) for tokens in self.members], dtype=np.float64)
        return np.append(values / counts, 0.0)[self._bins]

    @cached_property
    def _bins(self) -> np.ndarray:
        """As `of`, with one more bin at the end for tokens without a unit."""
        return np.array([len(self.texts) if unit is None else unit for unit in self.of], dtype=np.intp)


def units(prompt: Prompt, kind: str) -> Units:
    """Group the prompt's tokens into units of a kind in `UNITS`. The rules are in docs/units.md.

    Without offsets, the prompt's text is its concatenated tokens. Raises OptionError for an unknown kind, and for turns if
    the prompt is no chat, and for spans if it has none.
    """
    if kind not in UNITS:
        raise OptionError(f"units are {', '.join(UNITS)}; got {kind!r}")
    if kind == "token":
        return Units(kind, tuple(range(len(prompt))), prompt.tokens)
    if kind == "turn":
        return _turn_units(prompt)
    if kind == "span":
        return _span_units(prompt)
    return _text_units(prompt, kind)


def _turn_units(prompt: Prompt) -> Units:
    """One unit for each turn that has tokens."""
    if not prompt.turns:
        raise OptionError("this prompt has no turns: give it as messages=[{role, content}, ...] and the chat template tells them apart")
    turns = [turn.tokens for turn in prompt.turns if turn.tokens]
    of = {token: number for number, tokens in enumerate(turns) for token in tokens if not prompt.special[token]}
    return _renumbered("turn", [of.get(token) for token in range(len(prompt))], [_turn_text(prompt, tokens) for tokens in turns])


def _span_units(prompt: Prompt) -> Units:
    """One unit for each span that has tokens of its own, named by it. A token belongs to the innermost span."""
    if not prompt.spans:
        raise OptionError("this prompt has no named spans: give spans, documents or a chat, see docs/units.md")
    of = innermost(prompt.spans, prompt.offsets, prompt.text)
    return _renumbered(
        "span",
        [None if special else unit for unit, special in zip(of, prompt.special, strict=True)],
        [span.name for span in prompt.spans],
    )


def _turn_text(prompt: Prompt, tokens: tuple[int, ...]) -> str:
    if not prompt.offsets:
        return "".join(prompt.tokens[token] for token in tokens)
    spans = [prompt.offsets[token] for token in tokens]
    return prompt.text[min(start for start, _ in spans) : max(stop for _, stop in spans)].strip()


def _text_units(prompt: Prompt, kind: str) -> Units:
    text, offsets = (prompt.text, prompt.offsets) if prompt.offsets else _token_offsets(prompt.tokens)
    of: list[int | None] = [None] * len(prompt)
    spans: list[Span] = []
    for run in _runs_without_special(prompt.special):
        start, stop = min(offsets[t][0] for t in run), max(offsets[t][1] for t in run)
        run_spans = [(start + first, start + last) for first, last in CUTS[kind](text[start:stop])]
        chosen = _with_whitespace([_most_shared(offsets[t], run_spans) for t in run])
        for token, unit in zip(run, chosen, strict=True):
            of[token] = None if unit is None else len(spans) + unit
        spans += _extended(run_spans, chosen, [offsets[t] for t in run])
    return _renumbered(kind, of, [text[first:last] for first, last in spans])


def _token_offsets(tokens: tuple[str, ...]) -> tuple[str, list[Span]]:
    ends = np.cumsum([0, *map(len, tokens)]).tolist()
    return "".join(tokens), list(pairwise(ends))


def _runs_without_special(special: tuple[bool, ...]) -> Iterator[range]:
    """Runs of tokens between special tokens. No unit reaches across a special token."""
    start = 0
    for token, is_special in enumerate((*special, True)):
        if is_special:
            if start < token:
                yield range(start, token)
            start = token + 1


def _touched(token: Span, spans: list[Span]) -> range:
    """The indices of the spans that a token shares characters with. A token without characters: of the span that it lies in."""
    return range(bisect_right(spans, token[0], key=itemgetter(1)), bisect_left(spans, token[1], key=itemgetter(0)))


def _most_shared(token: Span, spans: list[Span]) -> int | None:
    """The index of the span that shares most characters with the token; of several, the first."""
    return max(_touched(token, spans), key=lambda n: min(token[1], spans[n][1]) - max(token[0], spans[n][0]), default=None)


def _with_whitespace(chosen: list[int | None]) -> list[int | None]:
    """Whitespace joins the unit that follows it, or at the end the unit before it."""
    filled, following = chosen.copy(), None
    for token in reversed(range(len(chosen))):
        following = filled[token] = chosen[token] if chosen[token] is not None else following
    last = next((unit for unit in reversed(chosen) if unit is not None), None)
    return [last if unit is None else unit for unit in filled]


def _extended(spans: list[Span], chosen: list[int | None], tokens: list[Span]) -> list[Span]:
    """The spans of the units' texts. A span whose tokens all belong to another unit is added to that unit's text."""
    used, extended = set(chosen), list(spans)
    for unit, token in zip(chosen, tokens, strict=True):
        swallowed = [spans[number] for number in _touched(token, spans) if number not in used]
        if unit is not None and swallowed:
            extended[unit] = (min(extended[unit][0], swallowed[0][0]), max(extended[unit][1], swallowed[-1][1]))
    return extended


def _renumbered(kind: str, of: list[int | None], texts: list[str]) -> Units:
    """Number the units without gaps. Units without tokens are left out."""
    kept = sorted({unit for unit in of if unit is not None})
    number = {unit: index for index, unit in enumerate(kept)}
    return Units(kind, tuple(None if unit is None else number[unit] for unit in of), tuple(texts[unit] for unit in kept))
