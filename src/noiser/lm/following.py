"""The ids of a text that follows a prompt. Every target, foil, continuation and answer is read here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import SupportsIndex

from noiser.errors import OptionError, PromptError
from noiser.lm.tokenizer import Tokens
from noiser.text.prompt import Prompt

TokensLike = str | SupportsIndex | Sequence[int]
"""Tokens as text (with its leading space), as one id, or as several ids."""

ANCHORS = ("\n", "(", "a", "1")
"""Texts that a target is put behind if it merges with the end of its prompt."""


@dataclass(frozen=True)
class Following:
    """The tokens of a text behind a prompt."""

    ids: tuple[int, ...]
    warning: str = ""
    """Both readings, if the tokenizer joins the end of the prompt and the beginning of the text. Else empty."""


@dataclass(frozen=True)
class _Joint:
    """Prompt and text, tokenised together."""

    rest: tuple[int, ...] = ()
    """The tokens behind the prompt's own. Empty if the prompt's own tokens are not kept, or not known to be."""
    merged: tuple[int, ...] = ()
    """The tokens from the first that is not the prompt's own, if the prompt's own are not kept. Else empty."""


def follow(tokens: Tokens, prompt: Prompt, given: TokensLike) -> Following:
    """The ids of `given` as it follows the prompt. Ids are taken as they are.

    Text is tokenised together with the prompt, so a tokenizer that puts a space in front of a text does not put one here. The
    prompt's own ids are kept: the result is what follows them. Decoded, prompt and result are the prompt's text and the given
    text, byte for byte; only a tokenizer that changes text itself (lower case, no spaces) may differ.

    If the end of the prompt and the beginning of the text would become one token, the text is tokenised by itself, and
    `warning` has both readings. Raises PromptError if there are no tokens, or if an id does not exist.
    """
    alone = token_ids(tokens, given)
    if not isinstance(given, str):
        return Following(alone)
    if all(prompt.special):  # the tokenizer begins a text here, as it did for the prompt
        return Following(alone)
    joint = _tokenize_together(tokens, prompt, given)
    readings = _readings(tokens, given, alone, joint) if tokens.spells_spaces else ()
    ids = next((ids for ids in readings if ids and _is_exact(tokens, ids, given)), joint.rest or alone)
    return Following(ids, _merge_warning(tokens, given, ids, joint.merged) if joint.merged else "")


def follow_word(tokens: Tokens, prompt: Prompt, given: TokensLike) -> Following:
    """As `follow`, for an answer that is given as a word. A space is put before the word where `with_space` says so.

    Raises PromptError and OptionError.
    """
    return follow(tokens, prompt, with_space(prompt, given) if isinstance(given, str) else given)


def with_space(prompt: Prompt, word: str) -> str:
    """The word as it follows the prompt, without the spaces around it.

    A space is put before it unless the prompt ends in white space or with the header of a chat's answer: there the answer
    begins a new text. Raises OptionError for a blank word.
    """
    bare = word.strip()
    if not bare:
        raise OptionError(f"the target must be a word; got {word!r}")
    return bare if begins_anew(prompt) else f" {bare}"


def begins_anew(prompt: Prompt) -> bool:
    """True if what follows the prompt needs no space: the prompt ends in white space or with the header of a chat's answer."""
    is_header = bool(prompt.turns) and len(prompt) - 1 not in prompt.turns[-1].tokens
    return is_header or prompt.text[-1:].isspace()


def token_ids(tokens: Tokens, given: TokensLike) -> tuple[int, ...]:
    """The ids of text by itself, or ids as they are. Raises PromptError if there are none, or if an id does not exist."""
    ids = tokens.ids(given)
    if not ids:
        raise PromptError(f"there are no tokens in {given!r}: give at least one character or id")
    return ids


def _tokenize_together(tokens: Tokens, prompt: Prompt, text: str) -> _Joint:
    for before in _texts_before(prompt):
        own = _without_first_special(tokens, tokens.ids(before))
        if not own or not _is_body(tokens, own, prompt):
            continue
        both = _without_first_special(tokens, tokens.ids(before + text))
        if both[: len(own)] == own:
            return _Joint(rest=both[len(own) :])
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own, both, strict=False)))
        return _Joint(merged=both[kept:])
    return _Joint()


def _texts_before(prompt: Prompt) -> Iterator[str]:
    """The prompt's text, and for ids that text without the special tokens and the space that the tokenizer puts in front."""
    yield prompt.text
    first = next((start for (start, _), special in zip(prompt.offsets, prompt.special, strict=False) if not special), None)
    if first is not None:
        yield prompt.text[first:]
        yield prompt.text[first:].removeprefix(" ")


def _is_body(tokens: Tokens, own: tuple[int, ...], prompt: Prompt) -> bool:
    """Whether the prompt's ids are these, but for special tokens that the tokenizer adds in front and behind."""
    ids = _without_first_special(tokens, prompt.input_ids)
    return ids[: len(own)] == own and all(map(tokens.is_special, ids[len(own) :]))


def _without_first_special(tokens: Tokens, ids: Sequence[int]) -> tuple[int, ...]:
    count = sum(1 for _ in takewhile(tokens.is_special, ids))
    return tuple(ids[count:])


def _readings(tokens: Tokens, text: str, alone: tuple[int, ...], joint: _Joint) -> Iterator[tuple[int, ...]]:
    """Ways to read the text, the best first. Only those that give the same text back count."""
    yield joint.rest
    yield alone
    for anchor in ANCHORS:
        own, both = tokens.ids(anchor), tokens.ids(anchor + text)
        if own and both[: len(own)] == own:
            yield both[len(own) :]
    if b"".join(map(tokens.raw, alone)).strip() == text.strip().encode():
        yield _fewest(tokens, text.encode())


def _is_exact(tokens: Tokens, ids: Sequence[int], text: str) -> bool:
    return b"".join(map(tokens.raw, ids)) == text.encode()


def _fewest(tokens: Tokens, wanted: bytes) -> tuple[int, ...]:
    """The fewest tokens that spell these bytes; of equally many those that begin with the longest. Empty if there are none."""
    vocabulary = tokens.vocabulary
    longest = max(map(len, vocabulary), default=0)
    best: list[tuple[int, ...] | None] = [*[None] * len(wanted), ()]
    for start in reversed(range(len(wanted))):
        for stop in range(min(len(wanted), start + longest), start, -1):
            rest, token = best[stop], vocabulary.get(wanted[start:stop])
            current = best[start]
            if token is not None and rest is not None and (current is None or len(rest) + 1 < len(current)):
                best[start] = (token, *rest)
    return best[0] or ()


def _merge_warning(tokens: Tokens, text: str, ids: Sequence[int], merged: Sequence[int]) -> str:
    chosen, other = (" ".join(repr(tokens.surface(i)) for i in reading) for reading in (ids, merged))
    return (
        f"the tokenizer joins the end of the prompt and {text!r} to {other}. The prompt's own tokens are kept, so {text!r} is read as "
        f"{chosen}. If the other was meant, end the prompt before {tokens.surface(merged[0])!r} and begin the text with it"
    )
