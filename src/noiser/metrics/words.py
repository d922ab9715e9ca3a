"""A sample's words, ranked by a method's scores, and what a judge is shown of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from noiser.judging import Clue, Form, Reply, Variant
from noiser.metrics.protocols import as_released
from noiser.metrics.sample import Candidate, Sample, Value
from noiser.normalization import normalize
from noiser.replies import correct
from noiser.seeding import generator

Words = Literal["unicode", "treebank"]
UNIT = {"unicode": "word", "treebank": "treebank"}
NO_WORDS = "the prompt has no words"
NO_GOLD = "the explained word has neither letters nor digits: there is nothing to answer"
EPSILON = 1e-9
"""What a share times a count may be above a whole number by rounding alone."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """The words of a prompt, as one method's scores rank them."""

    texts: tuple[str, ...]
    """In the order of the prompt."""
    scores: Float[np.ndarray, " words"]
    """The sum of each word's token scores: as the method gave them, or as the released code hands them on."""
    masses: Float[np.ndarray, " words"]
    """The same of the scores as shares of attribution mass; in the released code's variant the scores themselves."""
    order: tuple[int, ...]
    """Places of the words, the highest score first."""
    gold: str
    """The explained word."""

    def top(self, count: int) -> tuple[int, ...]:
        """The places of so many highest words, in the order of the prompt."""
        return tuple(sorted(self.order[:count]))

    def at(self, places: Sequence[int]) -> tuple[str, ...]:
        """The words at these places, in this order."""
        return tuple(self.texts[place] for place in places)


def ranked(sample: Sample, candidate: Candidate, words: Words, variant: Variant, seed: int) -> Ranked | Value:
    """The sample's words; or why it is undefined. Words with equal scores come in an order drawn at random, the same for every
    method. A chat's words are those of its messages, not of its template."""
    prompt = sample.clean.prompt
    found = sample.units(UNIT[words])
    scores = as_released(candidate.scores, candidate.released) if variant == "official" else candidate.scores
    masses = scores if variant == "official" else normalize(scores[None], "clip_l1")[0]
    said = {token for turn in prompt.turns for token in turn.tokens} or set(range(len(prompt)))
    own = [place for place, members in enumerate(found.members) if said.intersection(members)]
    if not own:
        return Value(None, {}, NO_WORDS)
    gold = sample.lm.tokens.text(sample.goal.target.token_ids).strip()
    if not any(map(str.isalnum, gold)):
        return Value(None, {}, NO_GOLD)
    sums, shares = (found.sums(each[None])[0][0][own] for each in (scores, masses))
    ties = generator(seed, sample.ids, "words").permutation(len(own))
    return Ranked(tuple(found.texts[place] for place in own), sums, shares, tuple(np.lexsort((ties, -sums)).tolist()), gold)


def kept_count(share: float, words: int) -> int:
    """How many words a share is: rounded up, at least one."""
    return min(words, max(1, ceil(share * words - EPSILON)))


def judged(reply: Reply, clue: Clue, wanted: str, form: Form, variant: Variant) -> dict[str, Any]:
    """What a judge was shown and said, and whether it named the word, as plain JSON."""
    named = reply.status == "ok" and correct(reply.answers, wanted, form, variant)
    said = {"status": reply.status, "correct": named, "answers": list(reply.answers), "said": reply.said, "model": reply.model}
    return said | {"shown": list(clue.words)}
