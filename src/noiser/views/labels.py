"""What there is to show of an attribution: labels and scores, of tokens or of whole units."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from noiser.results.attribution import Attribution
from noiser.results.scores import normalize
from noiser.text.prompt import Prompt
from noiser.views.escape import visible

LONGEST = 60
"""Characters of a unit's text in a label."""


@dataclass(frozen=True, eq=False)
class Shown:
    """One column of labels and one row of scores for each target."""

    labels: tuple[str, ...]
    scores: Float[np.ndarray, "targets labels"]
    special: tuple[bool, ...]
    """Which labels are special tokens, shown dim."""
    of: tuple[int | None, ...]
    """The label of each token; None where it has none."""
    rest: Float[np.ndarray, " targets"] | None
    """What belongs to no unit; None for tokens, and after a normalisation."""


def shown(attribution: Attribution, by: str | None = None, normalization: str = "none") -> Shown:
    """By tokens, or summed over units: those that `by` names, else those that were perturbed."""
    unit = by or attribution.unit
    if unit == "token":
        labels = tuple(spaced(visible(token)) for token in attribution.tokens)
        of = tuple(range(len(labels)))
        return Shown(labels, attribution.normalized(normalization), attribution.prompt.special, of, None)
    sums = attribution.by(unit)
    texts = [visible(text.strip()) for text in sums.units.texts]
    if unit == "turn":
        roles = [turn.role for turn in attribution.prompt.turns if turn.tokens]
        texts = [f"{visible(role)}: {text}" for role, text in zip(roles, texts, strict=True)]
    labels = tuple(text if len(text) <= LONGEST else text[: LONGEST - 1] + "\u2026" for text in texts)
    rest = sums.rest if normalization == "none" else None
    return Shown(labels, normalize(sums.scores, normalization), (False,) * len(labels), sums.units.of, rest)


def strongest(scores: np.ndarray, most: int) -> Sequence[int]:
    """The labels with the largest scores of either sign, in the order of the prompt; for several rows each row's largest share."""
    largest = np.abs(np.atleast_2d(scores))
    largest = (largest / np.maximum(largest.max(-1, keepdims=True, initial=0.0), 1e-300)).max(0, initial=0.0)
    return sorted(np.argsort(-largest, kind="stable")[:most].tolist())


def number(score: float) -> str:
    """A score with its sign; what four decimals would show as zero with an exponent."""
    return f"{score:+.4f}" if abs(score) >= 5e-5 or score == 0 else f"{score:+.1e}"


def spaced(label: str) -> str:
    """A leading space made visible."""
    return "\u00b7" + label[1:] if label.startswith(" ") else label


def readable(prompt: Prompt) -> list[str]:
    """The tokens as in running text: where several are the bytes of one character, the first reads as that and the others as nothing."""
    tokens, done = list(prompt.tokens), 0
    for token, (start, stop) in enumerate(prompt.offsets):
        if tokens[token].startswith("<0x"):
            tokens[token] = prompt.text[max(start, done) : stop]
        done = max(done, stop)
    return tokens
