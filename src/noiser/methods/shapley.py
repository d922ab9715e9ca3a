"""Shapley values of tokens or larger units."""

from typing import Annotated, Any, Literal

import numpy as np

from noiser.errors import OptionError
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.target import Objective
from noiser.methods.base import Baseline, MethodOutput, Steps, Unit, baseline_embeds, keep_units, measure, units_to_perturb
from noiser.methods.coalitions import Estimate, Sampling, by_leverage, by_permutations, exact
from noiser.registry import Range, method
from noiser.rng import generator

Sampler = Literal["auto", "exact", "permutation", "leverage"]
MAX_EXACT, MAX_AUTO_EXACT, MAX_PERMUTED = 20, 12, 16
"""The most units of `exact`; of `exact` and of `permutation` when the sampler is chosen here."""
SAMPLES_PER_UNIT, LEAST_PER_UNIT = 40, 4
"""Coalitions for each unit: by default, and the least that give every unit a value and a standard error."""
MAX_DEFAULT = 20_000
"""The most coalitions by default: it bounds the memory for very long prompts."""


@method(
    "shapley",
    family="perturbation",
    source="Shapley 1953; Lundberg & Lee 2017, arXiv:1705.07874; Musco & Witter 2025, arXiv:2410.01917",
    cost="2^T rows of T tokens up to 12 units, else 40 T rows of T tokens",
    changes="the embeddings of sets of units are replaced by the baseline",
)
def shapley(
    lm: LanguageModel,
    clean: CleanRun,
    objective: Objective,
    *,
    sampler: Sampler = "auto",
    samples: Annotated[int, Range(2, 2_000_000)] | None = None,
    unit: Unit = "token",
    baseline: Baseline = "zero",
    seed: int = 0,
) -> Steps[MethodOutput]:
    """Mean change in the explained quantity when a unit joins a random set of the others. Higher is more important; signed.

    The scores add up to the quantity minus its value when every unit is replaced by the baseline. A unit that the model ignores gets 0:
    exactly with `exact` and `permutation`, within the standard error with `leverage`. `notes["efficiency_gap"]` is the error of the sum.

    sampler   exact: all sets of units, at most 20 units; permutation: pairs of a random order and its reverse; leverage: a regression
              on pairs of a set and its complement, for many units; auto: exact up to 12 units if `samples` allows it, permutation
              up to 16, else leverage.
    samples   the most sets of units that are run, two of them all and none; none: 40 for each unit, at most 20,000. Fewer than
              4 for each unit are raised to 4. `exact` runs all of them.
    unit      what is present or missing as a whole; a unit's value is divided evenly among its tokens.
    baseline  replaces a missing token: zero: a zero embedding; unk: the embedding of the tokenizer's unknown token.

    Source: Shapley 1953, "A value for n-person games"; leverage: Musco & Witter 2025, arXiv:2410.01917.
    """
    units = units_to_perturb(clean.prompt, unit)
    players = len(units.texts)
    chosen = choose_sampler(sampler, samples, players)
    sampling = _sampling(
        chosen, samples or min(MAX_DEFAULT, SAMPLES_PER_UNIT * players), players, generator(seed, clean.prompt.input_ids, "shapley")
    )
    present = next(sampling)
    (measurement,) = yield from measure(objective, [keep_units(units, present, baseline_embeds(lm, clean.prompt, baseline))])
    estimate = _finish(sampling, measurement.values)
    notes = {
        "sampler": chosen,
        "coalitions": estimate.coalitions,
        "empty": estimate.empty,
        "efficiency_gap": objective.value - estimate.empty - float(estimate.values.sum()),
        "warnings": _warnings(samples, estimate.coalitions),
    }
    stderr = None if estimate.stderr is None else units.spread(estimate.stderr)
    return MethodOutput(units.spread(estimate.values), notes, stderr, estimate.dof)


def choose_sampler(sampler: Sampler, samples: int | None, players: int) -> Sampler:
    """The sampler that `auto` stands for. Raises OptionError if there are too many units for `exact`."""
    if sampler == "exact" and players > MAX_EXACT:
        raise OptionError(
            f"sampler=exact takes at most {MAX_EXACT} units, 2^{MAX_EXACT} rows; the prompt has {players}: use another sampler"
        )
    if sampler != "auto":
        return sampler
    if players <= MAX_AUTO_EXACT and (samples is None or samples >= 2**players):
        return "exact"
    return "permutation" if players <= MAX_PERMUTED else "leverage"


def _sampling(sampler: Sampler, samples: int, players: int, rng: np.random.Generator) -> Sampling:
    if sampler == "exact":
        return exact(players)
    pairs = (max(samples, LEAST_PER_UNIT * players) - 2) // 2
    if sampler == "leverage":
        return by_leverage(players, pairs, rng)
    return by_permutations(players, pairs // max(1, players - 1), rng)


def _warnings(samples: int | None, coalitions: int) -> list[str]:
    if samples is None or coalitions <= samples:
        return []
    return [f"{samples} samples are too few for the sampler and the number of units: {coalitions} were run."]


def _finish(sampling: Sampling, values: Any) -> Estimate:
    """Send the values of the coalitions to a sampler, and return its estimate."""
    try:
        sampling.send(values)
    except StopIteration as end:
        return end.value
    raise AssertionError("a sampler asks once")
