"""The results of `noiser.attribute` and `noiser.compare`: frozen, plain, printable."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from noiser.errors import OptionError
from noiser.results.card import Card, make_card
from noiser.results.display import Showable, view
from noiser.results.health import Finding, examine
from noiser.results.scores import LEVEL, half_widths, normalize, rank_ranges, spearman, top_overlap
from noiser.text.prompt import Prompt
from noiser.text.units import Units, units


@dataclass(frozen=True)
class Curve:
    """The explained quantity of one target as tokens are removed, and as only they are kept."""

    order: tuple[int, ...]
    """The tokens before the target, highest score first."""
    counts: tuple[int, ...]
    """Numbers of tokens, from 0 to all."""
    removed: tuple[float, ...]
    """The quantity without the first tokens of the order, for each count. The earlier it falls, the more faithful the order."""
    kept: tuple[float, ...]
    """The quantity with only the first tokens of the order, for each count. The earlier it rises, the more faithful the order."""
    operator: str = "zero"
    """What removing a token means: its embedding is zero."""

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Target:
    """What is explained: one token, several tokens as a whole, or the difference between a target and a foil."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    prob: float
    """Their joint probability on the clean run, in [0, 1]."""
    rank: int
    """How many tokens are more probable than it; of several tokens the largest such number. 0: the model's own prediction."""
    quantity: str = "prob"
    """`prob`, `log_prob`, `mean_prob`, `log_odds`, or `function NAME`: what the scores are differences of. `hellinger` and `jsd` stand
    for minus the distance of the whole next-token distribution from the clean one: scores are distances, without sign."""
    value: float | None = None
    """The quantity on the clean run; with a foil, that of the target minus that of the foil. None is the same as `prob`."""
    foil: "Target | None" = None
    """What the target is compared with."""
    context: int = 0
    """How many tokens come before it: the columns it is attributed to. 0 stands for all."""


@dataclass(frozen=True)
class Cost:
    """The cost of an attribution."""

    seconds: float
    """Wall-clock time. If prompts share batches, this prompt's share by token-forwards."""
    forward_tokens: int
    """Tokens that went through the whole model, as the engine counts them. They do not depend on the clock."""
    backward_tokens: int
    """Tokens of backward passes, in the rows whose gradient is wanted."""
    peak_bytes: int
    """On a GPU the most memory allocated during the call; on a CPU the process's highest resident size so far."""

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
    """In the method's own units, not normalised, read-only. Higher: the token supports the target more; of a method without signs:
    the token matters more. A token that does not come before a target has 0."""
    prompt: Prompt
    """The tokens in the order of the scores: the prompt, then an explained continuation without its last token."""
    targets: tuple[Target, ...]
    """One for each row of the scores."""
    method: str
    options: Mapping[str, Any]
    model: str
    revision: str
    seed: int | None
    """None if the method draws nothing at random."""
    cost: Cost
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the method reports besides scores (noiser: k, k_status, ...) and `warnings`, a list of sentences. With several targets
    `rows` holds the notes of each target."""
    unit: str = "token"
    """What was perturbed as a whole. A unit's score is divided evenly among its tokens, so sums over units are what was measured."""
    given: int | None = None
    """How many of the tokens belong to the given prompt. None: all."""
    curves: tuple[Curve, ...] = ()
    """One removal curve for each target, or none; see `noiser.with_curves`."""
    label: str = ""
    """The name of its row, as it was asked for: `noiser:bound=none`. The method's name by default."""
    stderr: Float[np.ndarray, "targets seq"] | None = None
    """Standard error of each score, from the method's own random draws: how much the scores vary from seed to seed. In the units of the
    scores, at least 0, read-only. None: the method draws nothing at random, or too few draws to tell. It says nothing about how
    faithful the method is."""
    dof: tuple[int | None, ...] | None = None
    """Degrees of freedom of each row of `stderr`, for Student's t. None: many."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", _frozen(self.scores))
        if self.stderr is not None:
            object.__setattr__(self, "stderr", _frozen(self.stderr))
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        object.__setattr__(self, "notes", MappingProxyType(dict(self.notes)))
        object.__setattr__(self, "label", self.label or self.method)

    def __reduce__(self) -> tuple[Any, ...]:
        values = (getattr(self, each.name) for each in fields(self))
        return Attribution, tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)

    @property
    def target(self) -> Target:
        """What the first row explains."""
        return self.targets[0]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens, in the order of the scores."""
        return self.prompt.tokens

    def normalized(self, how: str) -> Float[np.ndarray, "targets seq"]:
        """The scores on a common scale; see `noiser.results.scores.normalize` for the ways."""
        return self.scores if how == "none" else normalize(self.scores, how)

    def by(self, unit: str) -> "UnitScores":
        """The scores summed over words, sentences, lines, named spans or the turns of a chat; see `noiser.text.units.units`."""
        found = units(self.prompt, unit)
        return UnitScores(found, *found.sums(self.scores), None if self.stderr is None else found.sums(self.stderr)[0], self.dof)

    def interval(self, level: float = LEVEL) -> Float[np.ndarray, "targets seq"] | None:
        """How far the interval of each score reaches to each side: it holds the score of endless draws with probability `level`.

        Student's t times `stderr`, each score by itself. It holds for draws that are about normally distributed; docs/method.md says
        how often it holds with few draws. None if there are no standard errors.
        """
        return half_widths(self.stderr, self.dof, level)

    def ranks(self, target: int = 0, level: float = LEVEL) -> Int[np.ndarray, "context 2"]:
        """The first and the last place that each token before a target may have in the order of scores, 1 for the highest.

        All ranges of the target hold together with probability `level`, however the errors of its tokens depend on each other, see
        `noiser.results.scores.rank_ranges`. Tokens of one perturbed unit share their places. Without random draws only equal
        scores do. Raises OptionError if the method drew at random and its scores have no standard errors.
        """
        if self.stderr is None and self.seed is not None:
            raise OptionError(f"{self.label} draws at random and gives no standard errors, so the order of its scores is not known")
        context = self.targets[target].context or len(self.prompt)
        stderr = None if self.stderr is None else self.stderr[target, :context]
        return rank_ranges(self.scores[target, :context], stderr, self.dof[target] if self.dof else None, level)

    def certain_top(self, k: int, target: int = 0, level: float = LEVEL) -> tuple[int, ...]:
        """The positions of the tokens that are among the `k` highest scores of a target, for certain; highest score first.

        All of them are, with probability `level` (it is the family-wise level of `ranks`). There may be fewer than `k`, or none. A
        token is left out if another might have its place. Certain means: with other random draws too, not that the method is right.
        Raises OptionError as `ranks` does.
        """
        last = self.ranks(target, level)[:, 1]
        order = np.argsort(-self.scores[target, : len(last)], kind="stable")
        return tuple(int(token) for token in order if last[token] <= k)

    def card(self) -> Card:
        """The contract card: what is explained, what is changed and what is not, the budget, the seed and the model. `print` it."""
        return make_card(self)

    def health(self) -> tuple[Finding, ...]:
        """What may be wrong with this explanation: for each finding a sentence and what to do. Empty: nothing was found.

        It needs no further rows. See `noiser.results.health` for the limits.
        """
        return examine(self)

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
            "prompt": prompt_dict(self.prompt, self.given),
            "target": target_dict(self.target),
            "targets": [target_dict(target) for target in self.targets],
            "unit": self.unit,
            "scores": self.scores.tolist(),
            **({"stderr": self.stderr.tolist()} if self.stderr is not None else {}),
            **({"dof": list(self.dof)} if self.dof is not None else {}),
            "notes": dict(self.notes),
            "cost": vars(self.cost).copy(),
            "card": self.card().to_dict(),
            "health": [vars(finding).copy() for finding in self.health()],
            **({"curves": [curve.to_dict() for curve in self.curves]} if self.curves else {}),
        }

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return view("text")(self)


@dataclass(frozen=True, eq=False)
class UnitScores:
    """Scores of an attribution summed over units."""

    units: Units
    scores: Float[np.ndarray, "targets units"]
    rest: Float[np.ndarray, " targets"]
    """The sum over tokens that belong to no unit (special tokens, a chat's template)."""
    stderr: Float[np.ndarray, "targets units"] | None = None
    """The sum of the tokens' standard errors: the error of a unit that was perturbed as a whole, and of any other sum a bound that holds
    however the tokens' errors depend on each other. None as for tokens."""
    dof: tuple[int | None, ...] | None = None

    def interval(self, level: float = LEVEL) -> Float[np.ndarray, "targets units"] | None:
        """As `Attribution.interval`."""
        return half_widths(self.stderr, self.dof, level)

    def ranks(self, target: int = 0, level: float = LEVEL) -> Int[np.ndarray, "units 2"]:
        """As `Attribution.ranks`, for the units. It is right for sums too, and wider."""
        stderr = None if self.stderr is None else self.stderr[target]
        return rank_ranges(self.scores[target], stderr, self.dof[target] if self.dof else None, level)

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return {
            "unit": self.units.kind,
            "of": list(self.units.of),
            "texts": list(self.units.texts),
            "scores": self.scores.tolist(),
            "rest": self.rest.tolist(),
            **({"stderr": self.stderr.tolist()} if self.stderr is not None else {}),
        }


@dataclass(frozen=True, eq=False)
class Comparison(Showable):
    """Several methods on exactly the same tokens and targets."""

    attributions: tuple[Attribution, ...]
    failures: Mapping[str, str] = field(default_factory=dict)
    """The methods that failed, by label, and why."""

    @property
    def spearman(self) -> list[list[float | None]]:
        """Rank correlation of every two methods, see `noiser.results.scores.spearman`. None if all scores of a method are equal."""
        return self._pairs(spearman)

    @property
    def top_overlap(self) -> list[list[float | None]]:
        """The share of the three highest tokens that every two methods have in common."""
        return self._pairs(top_overlap)

    def _pairs(self, how: Callable[..., Any]) -> list[list[Any]]:
        lengths = [target.context or len(each.prompt) for each in self.attributions[:1] for target in each.targets]
        return [[how(a.scores, b.scores, lengths) for b in self.attributions] for a in self.attributions]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain Python values (schema 1): the attributions, and how far each two agree."""
        return {
            "schema": 1,
            "methods": [each.label for each in self.attributions],
            "attributions": [each.to_dict() for each in self.attributions],
            "agreement": {"spearman": self.spearman, "top3_overlap": self.top_overlap},
            "failures": dict(self.failures),
        }

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return view("comparison")(self)


def _frozen(values: np.ndarray) -> np.ndarray:
    """A read-only copy in float64."""
    frozen = np.array(values, dtype=np.float64)
    frozen.flags.writeable = False
    return frozen


def prompt_dict(prompt: Prompt, given: int | None) -> dict[str, Any]:
    """A prompt as plain Python values. `given` is the number of tokens that the user gave; None: all."""
    turns = [{"role": turn.role, "tokens": list(turn.tokens)} for turn in prompt.turns]
    return {
        "text": prompt.text,
        "input_ids": list(prompt.input_ids),
        "tokens": list(prompt.tokens),
        "given": len(prompt) if given is None else given,
        **({"offsets": [list(span) for span in prompt.offsets]} if prompt.offsets else {}),
        **({"special": list(prompt.special)} if any(prompt.special) else {}),
        **({"turns": turns} if turns else {}),
        **({"spans": [vars(span).copy() for span in prompt.spans]} if prompt.spans else {}),
    }


def target_dict(target: Target) -> dict[str, Any]:
    """A target as plain Python values."""
    plain = {**vars(target), "token_ids": list(target.token_ids), "tokens": list(target.tokens)}
    plain["value"] = target.prob if target.value is None else target.value
    return plain | {"foil": target_dict(target.foil) if target.foil else None}
