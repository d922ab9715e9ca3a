"""What views show of an attribution: labels and their scores, for tokens or units, safe to print."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from noiser.results.attribution import Attribution
from noiser.results.scores import normalize
from noiser.text.prompt import Prompt

MAX_LABEL = 60
"""Characters of a unit's text in its label."""


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """Labels, and one row of scores for each target."""

    labels: tuple[str, ...]
    scores: Float[np.ndarray, "targets labels"]
    special: tuple[bool, ...]
    """Which labels are special tokens; views show them dim."""
    label_of: tuple[int | None, ...]
    """The label of each token; None if the token belongs to no unit."""
    rest: Float[np.ndarray, " targets"] | None
    """The sum over tokens that belong to no unit; None for tokens, and after a normalization."""
    halves: Float[np.ndarray, "targets labels"] | None = None
    """How far the 95 % interval of each score reaches to each side. None without standard errors, and after a normalization."""


def labelled_scores(attribution: Attribution, by: str | None = None, normalization: str = "none") -> LabelledScores:
    """The scores of tokens, or their sums over units. The units are those that `by` names, else those that the method perturbed."""
    unit = by or attribution.unit
    plain = normalization == "none"
    if unit == "token":
        labels = tuple(mark_space(visible(token)) for token in attribution.tokens)
        label_of, halves = tuple(range(len(labels))), attribution.interval() if plain else None
        return LabelledScores(labels, attribution.normalized(normalization), attribution.prompt.special, label_of, None, halves)
    sums = attribution.by(unit)
    texts = [visible(text.strip()) for text in sums.units.texts]
    if unit == "turn":
        roles = [turn.role for turn in attribution.prompt.turns if turn.tokens]
        texts = [f"{visible(role)}: {text}" for role, text in zip(roles, texts, strict=True)]
    labels = tuple(text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "\u2026" for text in texts)
    rest = sums.rest if plain else None
    scores = sums.scores if plain else normalize(sums.scores, normalization)
    halves = sums.interval() if plain else None
    return LabelledScores(labels, scores, (False,) * len(labels), sums.units.of, rest, halves)


def strongest(scores: np.ndarray, count: int) -> Sequence[int]:
    """The `count` labels with the largest scores of either sign, in the order of the prompt.

    With several rows, a label counts by its largest share of any row's largest score.
    """
    sizes = np.abs(np.atleast_2d(scores))
    shares = (sizes / np.maximum(sizes.max(-1, keepdims=True, initial=0.0), 1e-300)).max(0, initial=0.0)
    return sorted(np.argsort(-shares, kind="stable")[:count].tolist())


def format_score(score: float) -> str:
    """A score with its sign and four decimals, or with an exponent if four decimals would show zero."""
    return f"{score:+.4f}" if abs(score) >= 5e-5 or score == 0 else f"{score:+.1e}"


def format_interval(score: float, half: float | None) -> str:
    """A score, and how far its 95 % interval reaches to each side: `+0.6564 \u00b1 0.0212`. The score alone without an interval."""
    return format_score(score) if half is None else f"{format_score(score)} \u00b1 {format_score(half)[1:]}"


def mark_space(label: str) -> str:
    """The label with a dot in place of a leading space."""
    return "\u00b7" + label[1:] if label.startswith(" ") else label


def readable_tokens(prompt: Prompt) -> list[str]:
    """The tokens as parts of a running text. If several tokens are the bytes of one character, the first one becomes the character and
    the others become empty."""
    tokens, end = list(prompt.tokens), 0
    for token, (start, stop) in enumerate(prompt.offsets):
        if tokens[token].startswith("<0x"):
            tokens[token] = prompt.text[max(start, end) : stop]
        end = max(end, stop)
    return tokens


SYMBOLS = {"\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d"}
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of characters that are escaped."""
_BYTE_TOKENS = re.compile(r"(?:<0x[0-9A-F]{2}>)+")


def visible(text: str) -> str:
    """The text with newline, tab and return as symbols, and any other control, format or unassigned character as its escape."""
    return "".join(SYMBOLS.get(c) or (_escape(c) if unicodedata.category(c) in INVISIBLE else c) for c in text)


def join_tokens(tokens: Iterable[str]) -> str:
    """The tokens as one text. Byte tokens (<0xE4>) become the character that they spell, if all its bytes are there."""
    return _BYTE_TOKENS.sub(_decode, "".join(tokens))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _decode(byte_tokens: re.Match[str]) -> str:
    try:
        return bytes.fromhex(byte_tokens[0].replace("<0x", "").replace(">", "")).decode()
    except UnicodeDecodeError:
        return byte_tokens[0]
