"""Results made by hand, with whatever text wherever text can be: for tests of what shows them."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from noiser.results.attribution import Attribution, Comparison, Cost, Curve, Target
from noiser.text.prompt import Prompt

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
