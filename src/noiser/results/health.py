"""The health report of a result: what may be wrong with an explanation, in one sentence each, and what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

SMALL_MARGIN = 0.05
"""A prediction whose probability is ahead of the second choice's by less than this is nearly a tie."""
SATURATED = 0.95
"""A score of at least this share of the whole quantity."""
APART = 1.5
"""The single scores of a perturbation method add up to this many times the whole quantity, or to its inverse: they overlap."""
NOTHING_LEFT = ("none", "rms", "replace")
"""Bounds of Noiser whose noise is as large as the embeddings or larger."""
GAP = 0.05
"""A completeness gap of more than this share of what should be added up to."""


@dataclass(frozen=True)
class Finding:
    """One thing to know about a result."""

    name: str
    """`margin`, `non_monotone`, `saturation`, `redundancy`, `edge`, `order` or `completeness`."""
    said: str
    """What was found, with its figure."""
    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.said} {self.remedy}"


def examine(attribution: Any) -> tuple[Finding, ...]:
    """The findings about a result, of all its targets. Empty: nothing was found."""
    rows = attribution.notes.get("rows") or [attribution.notes] * len(attribution.targets)
    found: dict[str, Finding] = {}
    for target in range(len(attribution.targets)):
        notes = rows[target] if target < len(rows) else {}
        for check in CHECKS:
            for finding in check(attribution, target, notes):
                found.setdefault(finding.name, finding)
    return tuple(found.values())


Check = Callable[[Any, int, Any], Iterator[Finding]]


def _margin(attribution: Any, target: int, notes: Any) -> Iterator[Finding]:  # noqa: ARG001
    """The prediction is nearly a tie, so a little noise decides it."""
    margin = notes.get("margin")
    if margin is not None and margin < SMALL_MARGIN:
        yield Finding(
            "margin",
            f"The prediction is ahead of the second choice by a probability of only {margin:.3f}.",
            "Explain the contrast of the two (foil).",
        )


def _non_monotone(attribution: Any, target: int, notes: Any) -> Iterator[Finding]:  # noqa: ARG001
    """Tokens flip the prediction at one scale and not at a larger one."""
    count = notes.get("non_monotone", 0)
    if count:
        yield Finding(
            "non_monotone",
            f"{count} token{'s flip' if count > 1 else ' flips'} the prediction at one scale of the noise and not at a larger one.",
            "Take search=exact, or bound=rms, which needs no search.",
        )


def _saturation(attribution: Any, target: int, notes: Any) -> Iterator[Finding]:  # noqa: ARG001
    """Single tokens take the whole probability, so their order is not resolved."""
    whole = _whole(attribution, target)
    if whole is None:
        return
    count = int((_scores(attribution, target) >= SATURATED * whole).sum())
    if count > 1:
        yield Finding(
            "saturation",
            f"Each of {count} tokens alone takes at least {SATURATED:.0%} of the probability, so which is above which says little.",
            "Take quantity=log_prob.",
        )


def _redundancy(attribution: Any, target: int, notes: Any) -> Iterator[Finding]:  # noqa: ARG001
    """The single drops do not add up to the drop without all tokens, which is about the whole probability."""
    whole = _whole(attribution, target)
    if whole is None:
        return
    share = float(_scores(attribution, target).sum()) / whole
    if share > APART:
        yield Finding(
            "redundancy",
            f"The scores add up to {share:.1f} times the whole probability: tokens are needed together.",
            "Look at noiser interactions, or at shapley, which shares the probability out.",
        )
    elif share < 1 / APART:
        yield Finding(
            "redundancy",
            f"The scores add up to {share:.0%} of the probability: tokens stand in for each other, and each one alone looks unimportant.",
            "Look at noiser interactions, or at shapley, which shares the probability out.",
        )


def _edge(attribution: Any, target: int, notes: Any) -> Iterator[Finding]:  # noqa: ARG001
    """The scale of the noise is at an edge of what was searched."""
    status = notes.get("k_status")
    if status == "at_floor":
        yield Finding(
            "edge", "Some token flips the prediction even at the smallest scale, so its score is 0.", "Raise steps, or take bound=rms."
        )
    elif status == "not_reached":
        yield Finding("edge", "k is the largest scale that was tried: no flip was found below it.", "Take bracket=expand, or bound=rms.")


def _order(attribution: Any, target: int, notes: Any) -> Iterator[Finding]:  # noqa: ARG001
    """Other random draws might put another token on top."""
    if attribution.stderr is None:
        return
    ranks = attribution.ranks(target)
    top = int(np.argmax(attribution.scores[target, : len(ranks)]))
    if ranks[top, 1] > 1:
        yield Finding(
            "order",
            f"The highest token may have any place from {ranks[top, 0]} to {ranks[top, 1]} with other random draws.",
            "Raise samples.",
        )


def _completeness(attribution: Any, target: int, notes: Any) -> Iterator[Finding]:
    """Scores that should add up to a difference do not."""
    gap = notes.get("completeness_gap", notes.get("efficiency_gap"))
    whole = attribution.targets[target].value or attribution.targets[target].prob
    if gap is not None and whole and abs(gap) > GAP * abs(whole):
        yield Finding(
            "completeness",
            f"The scores miss what they should add up to by {abs(gap / whole):.0%} of the quantity.",
            "Raise steps or samples.",
        )


CHECKS: tuple[Check, ...] = (_margin, _non_monotone, _saturation, _redundancy, _edge, _order, _completeness)


def _scores(attribution: Any, target: int) -> np.ndarray:
    return attribution.scores[target, : attribution.targets[target].context or None]


def _whole(attribution: Any, target: int) -> float | None:
    """The probability that single drops are shares of. None for other quantities, and for methods that leave something of a token."""
    explained = attribution.targets[target]
    drops = attribution.method == "occlusion" or attribution.options.get("bound") in NOTHING_LEFT
    return explained.prob if drops and explained.quantity == "prob" and explained.foil is None and explained.prob > 0 else None
