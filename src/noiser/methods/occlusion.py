"""Occlusion."""

import numpy as np
import torch

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, Unit, measure, units_to_perturb
from noiser.methods.gradients import Baseline, baseline_embeds
from noiser.registry import method


@method(
    "occlusion",
    family="perturbation",
    source="Zeiler & Fergus 2014, arXiv:1311.2901",
    cost="T rows of T/2 tokens (fewer with unit)",
)
def occlusion(
    lm: LanguageModel, clean: CleanRun, goal: Objective, *, unit: Unit = "token", baseline: Baseline = "zero"
) -> Steps[MethodOutput]:
    """Drop in the explained quantity when a token's embedding is taken away. Higher is more important; signed.

    unit      what is taken away at once; a unit's score is divided evenly among its tokens.
    baseline  what stands there instead: zero: a zero embedding; unk: the embedding of the tokenizer's unknown token (as in
              Inseq, which drops the sign too).

    Source: Zeiler & Fergus 2014, arXiv:1311.2901.
    """
    parts = units_to_perturb(clean.prompt, unit)
    start = baseline_embeds(lm, clean, baseline)
    edits = []
    for members in parts.members:
        first, stop = members[0], members[-1] + 1
        share = torch.ones(1, stop - first)
        share[0, [token - first for token in members]] = 0.0
        edits.append(Interpolate(first, share, None if start is None else start[first:stop]))
    found = yield from measure(goal, edits)
    return MethodOutput(parts.spread(np.array([goal.value - each.values[0] for each in found])))
