"""Results made by hand, with whatever text wherever text can be: for tests of what shows them."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from noiser.results.attribution import Attribution, Comparison, Cost, Curve, Target
from noiser.results.interactions import Interactions
from noiser.text.prompt import Prompt
from noiser.text.units import units

PLAIN = ("The", " cat", " sat", " on", " the")


def made(
    tokens: Sequence[str] = PLAIN,
    word: str = " mat",
    name: str = "model",
    value: str = "plain",
    methods: Sequence[str] = ("noiser", "lime"),
) -> Comparison:
    """A comparison whose model, target, foil, option, note and warning say these words; scores and curves are drawn by a seed."""
    seq = len(tokens)
    ends = np.cumsum([0, *map(len, tokens)]).tolist()
    prompt = Prompt("".join(tokens), tuple(range(seq)), tuple(tokens), (True,) + (False,) * (seq - 1), tuple(pairwise(ends)))
    foil = Target((6,), (word,), 0.1, 3, context=seq)
    target = Target((5,), (word,), 0.7, 0, "prob", 0.6, foil, seq)
    each = []
    for place, method in enumerate(methods):
        scores = np.random.default_rng(place).normal(size=(1, seq))
        order = tuple(np.argsort(-scores[0]).tolist())
        curve = Curve(
            order, tuple(range(seq + 1)), tuple(np.linspace(0.7, 0, seq + 1).tolist()), tuple(np.linspace(0, 0.7, seq + 1).tolist())
        )
        notes = {"k": 0.1, "k_status": value, "warnings": [value], value: [value]}
        about = {"options": {"bound": value}, "model": name, "revision": name, "seed": 0, "cost": Cost(1.0, 100, 0, 10**9)}
        each.append(Attribution(scores, prompt, (target,), method, **about, notes=notes, curves=(curve,)))
    return Comparison(tuple(each), {"occlusion": value})


def made_interactions(tokens: Sequence[str] = PLAIN, value: str = "plain", unit: str = "word") -> Interactions:
    """Interactions whose model, option and warning say these words; the first two units do most together, the last two least."""
    first = made(tokens, name=value, value=value).attributions[0]
    cut = units(first.prompt, unit)
    count = len(cut.texts)
    values = np.random.default_rng(3).normal(size=(count, count)) / 10
    values = np.triu(values, 1) + np.triu(values, 1).T
    values[0, 1] = values[1, 0] = 0.75
    values[-1, -2] = values[-2, -1] = -0.5
    notes = {"approximator": "exact", "coalitions": 2**count, "empty": 0.1, "warnings": [value]}
    about = {"model": value, "revision": "r", "options": {"unit": unit, "baseline": value}, "seed": None, "cost": first.cost}
    return Interactions(values, np.linspace(-0.2, 0.6, count), cut, first.prompt, first.target, **about, notes=notes)
