"""The results of attribution: frozen dataclasses that can be printed, saved and turned into JSON."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from noiser.results.display import Showable, view
from noiser.results.scores import normalize, spearman, top_overlap
from noiser.text.prompt import Prompt
from noiser.text.units import Units, units


@dataclass(frozen=True)
class Curve:
    """The explained quantity of one target as tokens are removed, and as tokens are added."""

    order: tuple[int, ...]
    """Indices of the tokens before the target, from the highest score to the lowest."""
    counts: tuple[int, ...]
    """Numbers of tokens, from none to all. The curve has one point for each."""
    removed: tuple[float, ...]
    """The quantity without the first tokens of the order, for each count. The earlier it falls, the more faithful the order."""
    kept: tuple[float, ...]
    """The quantity with only the first tokens of the order, for each count. The earlier it rises, the more faithful the order."""
    operator: str = "zero"
    """How a token is removed. `zero`: its embedding is set to zero."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Target:
    """What is explained: one token, several tokens together, or the difference between a target and a foil."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    prob: float
    """The joint probability of the tokens on the clean run, in [0, 1]."""
    rank: int
    """How many tokens the model finds more probable; for several tokens the largest such number. 0: the model predicts each of them."""
    quantity: str = "prob"
    """`prob`, `log_prob`, `mean_prob`, `log_odds`, or `function NAME`: the scores are differences of this quantity."""
    value: float | None = None
    """The quantity on the clean run. With a foil: the target's quantity minus the foil's. None: equal to `prob`."""
    foil: "Target | None" = None
    """The target that this one is compared with."""
    context: int = 0
    """The number of tokens before the target. They are the columns of its scores. 0: all tokens."""


@dataclass(frozen=True)
class Cost:
    """The time, the tokens and the memory that an attribution uses."""

    seconds: float
    """Wall-clock time. If prompts share batches, it is this prompt's share by token-forwards."""
    forward_tokens: int
    """Tokens that go through the whole model. The engine counts them, so the number does not depend on the machine's speed."""
    backward_tokens: int
    """Tokens that a gradient goes back through."""
    peak_bytes: int
    """On a GPU: the peak of allocated memory during the call. On a CPU: the peak resident size of the process so far."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.seconds + other.seconds,
            self.forward_tokens + other.forward_tokens,
            self.backward_tokens + other.backward_tokens,
            max(self.peak_bytes, other.peak_bytes),
        )


@dataclass(frozen=True, eq=False)
class Attribution(Showable):
    """Which input tokens caused a prediction, and by how much."""

    scores: Float[np.ndarray, "targets seq"]
    """In the method's own units, not normalised, read-only. A higher score means that the token supports the target more; for a
    method without a sign, that it matters more. A token that does not precede a target has score 0 for it."""
    prompt: Prompt
    """The tokens in the order of the scores. If a continuation is explained, its tokens except the last follow the prompt."""
    targets: tuple[Target, ...]
    """One target for each row of the scores."""
    method: str
    options: Mapping[str, Any]
    model: str
    revision: str
    seed: int | None
    """None if the method is deterministic."""
    cost: Cost
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Intermediate results of the method (for noiser: k, k_status, ...) and `warnings`, a list of sentences. With several targets
    `rows` holds the notes of each target."""
    unit: str = "token"
    """The unit that is perturbed as a whole. Its score is divided evenly among its tokens, so their sum is the measured score."""
    given: int | None = None
    """The number of tokens in the user's prompt. A continuation is not part of it. None: all tokens."""
    curves: tuple[Curve, ...] = ()
    """One removal curve for each target, or empty; see `noiser.with_curves`."""
    label: str = ""
    """The name of the row, as the user writes it: `noiser:bound=none`. The method's name by default."""

    def __post_init__(self) -> None:
        frozen = np.array(self.scores, dtype=np.float64)
        frozen.flags.writeable = False
        object.__setattr__(self, "scores", frozen)
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        object.__setattr__(self, "notes", MappingProxyType(dict(self.notes)))
        object.__setattr__(self, "label", self.label or self.method)

    def __reduce__(self) -> tuple[Any, ...]:
        values = (getattr(self, attribute.name) for attribute in fields(self))
        return Attribution, tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)

    @property
    def target(self) -> Target:
        """The target of the first row."""
        return self.targets[0]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens, in the order of the scores."""
        return self.prompt.tokens

    def normalized(self, how: str) -> Float[np.ndarray, "targets seq"]:
        """The scores on a common scale; see `noiser.results.scores.normalize` for the ways."""
        return self.scores if how == "none" else normalize(self.scores, how)

    def by(self, unit: str) -> "UnitScores":
        """The scores summed over words, sentences, lines or the turns of a chat; see `noiser.text.units.units`."""
        prompt_units = units(self.prompt, unit)
        return UnitScores(prompt_units, *prompt_units.sums(self.scores))

    def to_dict(self) -> dict[str, Any]:
        """The attribution as plain Python values, in the shape of the command line's JSON (schema 1)."""
        return {
            "schema": 1,
            "model": self.model,
            "revision": self.revision,
            "method": self.method,
            **({"label": self.label} if self.label != self.method else {}),
            "options": dict(self.options),
            "seed": self.seed,
            "prompt": {
                "text": self.prompt.text,
                "input_ids": list(self.prompt.input_ids),
                "tokens": list(self.prompt.tokens),
                "given": len(self.prompt) if self.given is None else self.given,
            },
            "target": _target_dict(self.target),
            "targets": [_target_dict(target) for target in self.targets],
            "unit": self.unit,
            "scores": self.scores.tolist(),
            "notes": dict(self.notes),
            "cost": vars(self.cost).copy(),
            **({"curves": [curve.to_dict() for curve in self.curves]} if self.curves else {}),
        }

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return view("text")(self)


@dataclass(frozen=True, eq=False)
class UnitScores:
    """The scores of an attribution, summed over units."""

    units: Units
    scores: Float[np.ndarray, "targets units"]
    rest: Float[np.ndarray, " targets"]
    """The sum over tokens that belong to no unit (special tokens, the template of a chat)."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {
            "unit": self.units.kind,
            "of": list(self.units.of),
            "texts": list(self.units.texts),
            "scores": self.scores.tolist(),
            "rest": self.rest.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Comparison(Showable):
    """The attributions of several methods for the same tokens and targets."""

    attributions: tuple[Attribution, ...]
    failures: Mapping[str, str] = field(default_factory=dict)
    """The error message of each method that cannot explain this prompt or model, by the method's label."""

    @property
    def spearman(self) -> list[list[float | None]]:
        """Rank correlation of each pair of methods; see `noiser.results.scores.spearman`. None if a method ranks nothing."""
        return self._pairs(spearman)

    @property
    def top_overlap(self) -> list[list[float | None]]:
        """The share of the three highest tokens that each pair of methods has in common."""
        return self._pairs(top_overlap)

    def _pairs(self, agreement: Callable[..., Any]) -> list[list[Any]]:
        lengths = [target.context or len(first.prompt) for first in self.attributions[:1] for target in first.targets]
        return [[agreement(a.scores, b.scores, lengths) for b in self.attributions] for a in self.attributions]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain Python values (schema 1): the attributions, and the agreement of each pair."""
        return {
            "schema": 1,
            "methods": [attribution.label for attribution in self.attributions],
            "attributions": [attribution.to_dict() for attribution in self.attributions],
            "agreement": {"spearman": self.spearman, "top3_overlap": self.top_overlap},
            "failures": dict(self.failures),
        }

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return view("comparison")(self)


def _target_dict(target: Target) -> dict[str, Any]:
    plain = {**vars(target), "token_ids": list(target.token_ids), "tokens": list(target.tokens)}
    plain["value"] = target.prob if target.value is None else target.value
    return plain | {"foil": _target_dict(target.foil) if target.foil else None}
