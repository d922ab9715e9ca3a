"""Occlusion: remove one unit at a time."""

import numpy as np
import torch

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import Baseline, MethodOutput, Steps, Unit, baseline_embeds, measure, units_to_perturb
from noiser.registry import method


@method(
    "occlusion",
    family="perturbation",
    source="Zeiler & Fergus 2014, arXiv:1311.2901",
    cost="T rows of T/2 tokens (fewer with unit)",
    changes="the embedding of one unit at a time is replaced by the baseline",
)
def occlusion(
    lm: LanguageModel, clean: CleanRun, objective: Objective, *, unit: Unit = "token", baseline: Baseline = "zero"
) -> Steps[MethodOutput]:
    """Drop in the explained quantity when a unit's embeddings are replaced by the baseline. Higher is more important; signed.

    unit      what is replaced at once; a unit's score is divided evenly among its tokens.
    baseline  zero: zero embeddings; unk: the embedding of the tokenizer's unknown token (as in Inseq, which also drops the
              sign).

    Source: Zeiler & Fergus 2014, arXiv:1311.2901.
    """
    units = units_to_perturb(clean.prompt, unit)
    replacement = baseline_embeds(lm, clean.prompt, baseline)
    perturbations = []
    for members in units.members:
        first, stop = members[0], members[-1] + 1
        share = torch.ones(1, stop - first)
        share[0, [token - first for token in members]] = 0.0
        perturbations.append(Interpolate(first, share, None if replacement is None else replacement[first:stop]))
    measurements = yield from measure(objective, perturbations)
    return MethodOutput(units.spread(np.array([objective.value - measurement.values[0] for measurement in measurements])))
