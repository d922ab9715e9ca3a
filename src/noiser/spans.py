"""Where the words, sentences and lines of a text are, as spans of characters. None is blank, and none overlaps another."""

from collections.abc import Iterator

import regex
from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]  (compiled, and without stubs)

from noiser.errors import OptionError

Span = tuple[int, int]
"""First and one past the last character."""

PUNCTUATION = r"(?:[\p{P}\p{Sc}\p{Sm}^`](?!\p{M}))*"
"""With currency and mathematical signs; a sign that carries a mark is part of a symbol, as in a keycap emoji."""
DENSE = r"[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Thai}\p{scx=Lao}\p{scx=Khmer}\p{scx=Myanmar}--\p{P}]"
"""A character of a script that is written without spaces."""
PIECE = regex.compile(rf"(?V1)(?P<dense>(?:{DENSE}\p{{M}}*)+)|(?:(?!{DENSE})\S)+")
EDGES = regex.compile(rf"(?P<front>{PUNCTUATION})(?P<core>\S*?)(?P<back>{PUNCTUATION})")
BOUNDED = regex.compile(r"(?sw).+?\b")
"""One word between Unicode's default boundaries (UAX 29), which know no dictionary."""
LINE = regex.compile(r"[^\n\r\x85\u2028\u2029]+")
SPACE = regex.compile(r"\s")
UNPADDED = regex.compile(r"\S(?:.*\S)?", regex.DOTALL)


def words(text: str) -> Iterator[Span]:
    """Maximal runs of non-space characters; punctuation at a run's ends is split off and stands for itself.

    In scripts written without spaces, Unicode word boundaries divide a run further.
    """
    for piece in PIECE.finditer(text):
        if piece["dense"]:
            yield from (word.span() for word in BOUNDED.finditer(text, *piece.span()))
        else:
            parts = EDGES.fullmatch(text, *piece.span())
            assert parts, "a run has edges and a core, any of them empty"
            yield from (parts.span(name) for name in ("front", "core", "back") if parts[name])


def lines(text: str) -> Iterator[Span]:
    """What stands between newlines, indentation included; blank lines are left out."""
    return (line.span() for line in LINE.finditer(text) if SPACE.sub("", line[0]))


def sentences(text: str) -> Iterator[Span]:
    """The sentences of each line, without the space around them."""
    for start, stop in lines(text):
        # sentencex panics on spaces of several bytes, such as U+00A0; a plain one has the same place.
        for sentence in segment("en", SPACE.sub(" ", text[start:stop])):
            inner = UNPADDED.search(text, start, start + len(sentence))
            start += len(sentence)
            if inner:
                yield inner.span()
        assert start == stop, "sentences make up the line"


def treebank(text: str) -> Iterator[Span]:
    """The words of the Penn Treebank's tokenizer, punctuation apart and contractions in two. Raises OptionError where nltk is missing.

    Source: nltk's `NLTKWordTokenizer`, on the text as a whole, no sentences split before.
    """
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError as error:
        raise OptionError("words=treebank needs nltk: pip install 'noiser[treebank]'") from error
    yield from NLTKWordTokenizer().span_tokenize(text)
