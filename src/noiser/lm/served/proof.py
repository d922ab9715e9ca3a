"""The argmax of a mean of distributions of which only the most probable tokens are known: proved, not assumed.

A token that is not among the K most probable of a draw has at most the K-th probability there. So its mean over the draws has an upper
bound. If every bound is below the highest mean that is known, that is the highest of all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from noiser.lm.served.completions import MOST_IDS, Distribution


@dataclass(frozen=True)
class Rival:
    """The token of highest mean probability other than the base token."""

    prob: float
    token: int


@dataclass(frozen=True)
class Unproved:
    """What has to be asked for, so that the rival can be proved."""

    missing: dict[int, tuple[int, ...]]
    """By draw: the tokens whose probability is needed there. Empty: the most probable tokens of every draw are needed, twice as many."""


def find_rival(draws: Sequence[Distribution], base: int) -> Rival | Unproved:
    """The best rival of `base` over the draws, or what is missing for the proof. A tie goes to the lowest id."""
    if all(draw.whole is not None for draw in draws):
        return _of_whole(draws, base)
    seen = sorted({token for draw in draws for token in draw.logprobs} - {base})
    least = {token: _mean(draws, token, upper=False) for token in seen}
    highest = max(least.values(), default=0.0)
    if sum(math.exp(min(draw.bound, 0.0)) for draw in draws) / len(draws) >= highest:
        return Unproved({})
    open_ = [token for token in seen if _mean(draws, token, upper=True) >= highest]
    missing = {
        index: tuple(token for token in open_ if draw.logprob(token) is None)
        for index, draw in enumerate(draws)
        if any(draw.logprob(token) is None for token in open_)
    }
    if missing:
        return Unproved({} if len(open_) > MOST_IDS else missing)
    best = max(open_, key=lambda token: (least[token], -token))
    return Rival(least[best], best)


def _mean(draws: Sequence[Distribution], token: int, *, upper: bool) -> float:
    """The token's mean probability: its upper bound, or its lower bound."""
    total = 0.0
    for draw in draws:
        known = draw.logprob(token)
        total += math.exp(known) if known is not None else math.exp(min(draw.bound, 0.0)) if upper else 0.0
    return total / len(draws)


def _of_whole(draws: Sequence[Distribution], base: int) -> Rival:
    mean = sum(draw.whole.double().exp() for draw in draws if draw.whole is not None) / len(draws)
    mean[base] = -1.0  # type: ignore[index]
    token = int(mean.argmax())  # type: ignore[union-attr]
    return Rival(float(mean[token]), token)  # type: ignore[index]
