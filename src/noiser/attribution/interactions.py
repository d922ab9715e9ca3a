"""Which units of a prompt work together? Shapley interactions of every two, computed by shapiq on the engine's rows."""

from collections.abc import Callable
from typing import Any, cast, get_args

import numpy as np
from jaxtyping import Bool, Float

from noiser.attribution.explain import as_question
from noiser.errors import OptionError, require_extra
from noiser.lm.following import TokensLike
from noiser.lm.measure import measure
from noiser.lm.model import LanguageModel, check_language_model
from noiser.lm.requests import Steps
from noiser.lm.scheduler import run_one
from noiser.lm.target import Question, ResolvedTarget, check_token_ids, resolve_target, target_warnings
from noiser.lm.tokenizer import Source
from noiser.methods.base import Baseline, Unit, baseline_embeds, keep_units, units_to_perturb
from noiser.results.attribution import Cost
from noiser.results.interactions import Interactions
from noiser.rng import generator
from noiser.text.prompt import Prompt

MAX_EXACT = 12
"""The most units whose sets are all run by default: 2^12 = 4,096 rows."""
SAMPLES_PER_UNIT = 60
"""Sets of units for each unit by default, if not all are run."""
MIN_SAMPLES = 4
"""The sets of two units."""
Found = tuple[Float[np.ndarray, " units"], Float[np.ndarray, "units units"]]
"""The Shapley values and the interactions."""


def interactions(
    lm: LanguageModel,
    prompt: Source,
    target: TokensLike | Callable[..., Any] | Question | None = None,
    *,
    foil: TokensLike | None = None,
    continuation: TokensLike | None = None,
    generate: int | None = None,
    span: tuple[int, int] | None = None,
    quantity: str | None = None,
    explain: str | None = None,
    spans: Any = None,
    documents: Any = None,
    unit: str = "word",
    baseline: str = "zero",
    samples: int | None = None,
    seed: int = 0,
) -> Interactions:
    """How much every two units of `prompt` do together for the target, beyond what each does alone.

    The Shapley interaction index of order 2: the mean over sets S of the other units of v(S + i + j) - v(S + i) - v(S + j) + v(S), where v
    is the explained quantity with only these units present. Signed, in units of the quantity. Needs `pip install 'noiser[shapley]'`.

    unit      what is present or missing as a whole: token, word, sentence, line, paragraph, turn or span. At least two of them.
    baseline  replaces a missing token: zero: a zero embedding; unk: the embedding of the tokenizer's unknown token.
    samples   the most sets of units that are run. All sets are run if their number is not larger; by default up to 12 units. Else the
              values are estimated from 60 sets for each unit by default, and a warning says so.
    seed      the key of the random draws of an estimate.

    The other arguments are those of `noiser.attribute`; a continuation needs a span, so that one number is explained. Raises the errors
    of `attribute`, and MissingExtraError without shapiq.

    Source: Grabisch & Roubens 1999, Int. J. Game Theory 28; estimate: SHAP-IQ, Fumagalli et al. 2023, arXiv:2303.01179; both by shapiq.
    """
    check_language_model(lm)
    check_interaction_options(unit, baseline, samples)
    question = as_question(target, foil, continuation, generate, span, quantity, explain)
    check_token_ids(lm.tokens, question)
    given = lm.prompt(prompt, spans, documents)
    resolved = _resolve(lm, given, question)
    game = _Game(lm, resolved, cast(Unit, unit), cast(Baseline, baseline))
    exact = 2**game.players <= (2**MAX_EXACT if samples is None else samples)
    shapley, values = _exact(game) if exact else _estimate(game, samples or SAMPLES_PER_UNIT * game.players, seed)
    advice = [*lm.warnings, *given.warnings, *target_warnings(lm.tokens, given, question, resolved), *([] if exact else [game.warning()])]
    return Interactions(
        values=values,
        shapley=shapley,
        units=game.units,
        prompt=game.clean.prompt,
        target=game.objective.target,
        model=lm.name,
        revision=lm.revision,
        options={"unit": unit, "baseline": baseline, "samples": samples},
        seed=None if exact else seed,
        cost=game.cost,
        notes={"approximator": "exact" if exact else "SHAPIQ", "coalitions": game.coalitions, "empty": game.empty, "warnings": advice},
    )


def check_interaction_options(unit: str, baseline: str, samples: int | None) -> None:
    """Raises OptionError for a value that does not exist or is too small, and MissingExtraError without shapiq."""
    allowed = {"unit": (unit, [each for each in get_args(Unit) if each != "auto"]), "baseline": (baseline, get_args(Baseline))}
    for name, (value, choices) in allowed.items():
        if value not in choices:
            raise OptionError(f"interactions: {name} must be one of {', '.join(choices)}; got {value!r}")
    if samples is not None and (not isinstance(samples, int) or isinstance(samples, bool) or samples < MIN_SAMPLES):
        raise OptionError(f"interactions: samples wants a number of sets, at least {MIN_SAMPLES}; got {samples!r}")
    require_extra("shapley", "noiser interactions")


def _resolve(lm: LanguageModel, prompt: Prompt, question: Question) -> ResolvedTarget:
    """What is explained. Raises OptionError for several targets."""
    resolved = run_one(lm, resolve_target(lm.tokens, prompt, question, None))[0]
    if len(resolved) > 1:
        raise OptionError(f"interactions explain one target; this question has {len(resolved)}: give a span of the continuation")
    return resolved[0]


class _Game:
    """The engine as shapiq's game: from sets of units [sets, units] to the explained quantity [sets]."""

    def __init__(self, lm: LanguageModel, resolved: ResolvedTarget, unit: Unit, baseline: Baseline) -> None:
        self.lm = lm
        self.clean, self.objective = resolved
        self.units = units_to_perturb(self.clean.prompt, unit)
        self.players = len(self.units.texts)
        if self.players < 2:
            raise OptionError(f"interactions need at least two units; this prompt has one {unit}: use a smaller unit")
        self.replacement = baseline_embeds(lm, self.clean.prompt, baseline)
        self.cost = Cost(0.0, len(self.clean.prompt), 0, 0)
        self.coalitions = 0
        self.empty = 0.0
        """The quantity without any unit, once it has been asked for."""

    def __call__(self, coalitions: np.ndarray) -> Float[np.ndarray, " sets"]:
        """All sets of one call share batches."""
        present = np.atleast_2d(coalitions).astype(bool)
        values, cost = run_one(self.lm, self._values(present))
        self.cost += cost
        self.coalitions += len(present)
        for value in values[~present.any(-1)][:1]:
            self.empty = float(value)
        return values

    def _values(self, present: Bool[np.ndarray, "sets units"]) -> Steps[Float[np.ndarray, " sets"]]:
        (measurement,) = yield from measure(self.objective, [keep_units(self.units, present, self.replacement)])
        return measurement.values

    def warning(self) -> str:
        """What to know about an estimate."""
        share = f"{self.coalitions:,} of 2^{self.players} sets of {self.units.kind}s"
        return f"Estimated from {share}: run it with another seed to see how much the values vary, or raise samples."


def _exact(game: _Game) -> Found:
    """From all sets of units."""
    from shapiq import ExactComputer

    return _orders(ExactComputer(game, game.players)("SII", 2))


def _estimate(game: _Game, samples: int, seed: int) -> Found:
    """From random pairs of a set and its complement."""
    from shapiq.approximator import SHAPIQ

    state = int(generator(seed, game.clean.prompt.input_ids, "interactions").integers(2**31))
    return _orders(SHAPIQ(game.players, 2, "SII", pairing_trick=True, random_state=state).approximate(samples, game))


def _orders(found: Any) -> Found:
    """The Shapley values and the interactions of shapiq's result."""
    return found.get_n_order_values(1), found.get_n_order_values(2)
