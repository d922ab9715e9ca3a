"""Words of a continuation found as exact text, and the tokens that cover them."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from noiser.errors import OptionError
from noiser.lm.tokenizer import Tokens

SHOWN = 400
"""Characters of a continuation that an error shows."""


def find_words(tokens: Tokens, ids: Sequence[int], words: str) -> tuple[int, int]:
    """The tokens of the continuation `ids` that share a character with `words`: the first, and one past the last.

    The words are searched in the bytes of the tokens, where a character begins only where one begins, so that a character of several
    tokens is right. With a tokenizer that leaves out spaces, spaces of the words do not count.

    Raises OptionError if the words are not in the continuation, or in several places that other tokens cover.
    """
    raws = [tokens.raw(token) for token in ids]
    wanted = words.encode(errors="surrogatepass")
    if not tokens.spells_spaces:
        raws, wanted = [b"".join(raw.split()) for raw in raws], b"".join(wanted.split())
    ends = [0, *accumulate(map(len, raws))]
    found = list(dict.fromkeys(_covering(ends, start, start + len(wanted)) for start in _places(b"".join(raws), wanted)))
    if len(found) == 1:
        return found[0]
    text = b"".join(tokens.raw(token) for token in ids).decode(errors="replace")
    shown = repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}\u2026")
    if not found:
        raise OptionError(f"explain: {words!r} is not in the continuation, which is {shown}: give its exact words, capitals and spaces too")
    places = ", ".join(f"{start}:{stop}" for start, stop in found)
    raise OptionError(
        f"explain: {words!r} is in {len(found)} places of the continuation, its tokens {places}: give more of the words around the place "
        f"that you mean, or one of these as span. The continuation is {shown}"
    )


def _places(content: bytes, wanted: bytes) -> Iterator[int]:
    place = content.find(wanted)
    while place >= 0:
        yield place
        place = content.find(wanted, place + 1)


def _covering(ends: Sequence[int], start: int, stop: int) -> tuple[int, int]:
    """The tokens with a byte between `start` and `stop`. Token `n` has the bytes from `ends[n]` to `ends[n + 1]`."""
    inside = [token for token in range(len(ends) - 1) if max(ends[token], start) < min(ends[token + 1], stop)]
    return inside[0], inside[-1] + 1
