"""The contract card of a result: what it explains, and how. Two results may be compared only if they explain the same."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from noiser.errors import OptionError
from noiser.registry import METHODS

QUANTITIES = {
    "prob": "probability",
    "log_prob": "log-probability",
    "mean_prob": "mean probability of the tokens",
    "log_odds": "log-odds",
    "hellinger": "Hellinger distance of the next-token distribution from the clean one",
    "jsd": "Jensen-Shannon divergence of the next-token distribution from the clean one",
}
EXPLAINED = ("output", "features", "quantity", "fixed")
"""Entries that say what is explained. Results whose cards differ in one of them answer different questions."""


@dataclass(frozen=True)
class Card:
    """What one result explains, and how it was computed. The first four entries say what; the others how.

    Source: the entries follow arXiv:2605.23080.
    """

    output: str
    """The output that is explained."""
    features: str
    """The features that may get a score, and the units that are changed as a whole."""
    quantity: str
    """The number whose changes are attributed."""
    fixed: str
    """What no method changes."""
    perturbation: str
    """What is changed, and what stands in its place."""
    budget: str
    """What it cost, in tokens that went through the model."""
    seed: str
    model: str
    """The model and its revision."""

    def to_dict(self) -> dict[str, str]:
        """As plain Python values."""
        return vars(self).copy()

    def __str__(self) -> str:
        names = [field.name for field in fields(self)]
        width = max(map(len, names))
        return "\n".join(f"{name:<{width}}  {getattr(self, name)}" for name in names)


def make_card(attribution: Any) -> Card:
    """The card of a result."""
    targets, context = attribution.targets, attribution.targets[-1].context or len(attribution.prompt)
    given = attribution.given if attribution.given is not None else len(attribution.prompt)
    ids = hashlib.sha256(repr(attribution.prompt.input_ids).encode()).hexdigest()[:8]
    units = "each token by itself" if attribution.unit == "token" else f"{attribution.unit}s as a whole"
    generated = f", {context - given} of them generated" if context > given else ""
    cost = attribution.cost
    return Card(
        output="; ".join(map(_output, targets)),
        features=f"all {context} tokens before the target{generated} (sha256 {ids}), {units}",
        quantity=_quantity(targets),
        fixed="the weights, the number and the positions of the tokens, the tokens of the target",
        perturbation=_perturbation(attribution),
        budget=f"{cost.forward_tokens:,} tokens forward, {cost.backward_tokens:,} backward",
        seed="nothing is drawn at random" if attribution.seed is None else str(attribution.seed),
        model=f"{attribution.model}, revision {attribution.revision}",
    )


def check_comparable(attributions: Sequence[Any], labels: Sequence[str]) -> None:
    """Raises OptionError, with both cards side by side, if two results explain different things."""
    cards = [attribution.card() for attribution in attributions]
    for label, card in zip(labels[1:], cards[1:], strict=True):
        differ = differences(cards[0], card)
        if differ:
            raise OptionError(
                f"{labels[0]} and {label} explain different things ({', '.join(differ)}), so no table can compare them:\n"
                + side_by_side({labels[0]: cards[0], label: card})
            )


def differences(one: Card, other: Card) -> list[str]:
    """The entries about what is explained in which two cards differ."""
    return [name for name in EXPLAINED if getattr(one, name) != getattr(other, name)]


def side_by_side(cards: dict[str, Card]) -> str:
    """Every entry of the cards, one card below the other for each, with a mark where they differ in what is explained."""
    width = max(map(len, cards))
    lines = []
    for field in fields(Card):
        values = {label: getattr(card, field.name) for label, card in cards.items()}
        mark = "  <- differ" if field.name in EXPLAINED and len(set(values.values())) > 1 else ""
        lines += [f"  {field.name}{mark}", *(f"    {label:<{width}}  {value}" for label, value in values.items())]
    return "\n".join(lines)


def _output(target: Any) -> str:
    text = repr("".join(target.tokens))
    foil = f" and not {''.join(target.foil.tokens)!r}" if target.foil is not None else ""
    ids = " ".join(map(str, target.token_ids))
    return f"{text} (id {ids}){foil}"


def _quantity(targets: Sequence[Any]) -> str:
    first = targets[0]
    name = str(QUANTITIES.get(first.quantity, first.quantity))
    return f"{name}, target minus foil" if first.foil is not None and first.quantity == "prob" else name


def _perturbation(attribution: Any) -> str:
    method = METHODS.get(attribution.method)
    changes = method.changes if method is not None else "not stated"
    options = ", ".join(f"{name}={value}" for name, value in attribution.options.items() if name != "unit" and value is not None)
    return f"{attribution.method}: {changes}" + (f" ({options})" if options else "")
