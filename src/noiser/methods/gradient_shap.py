"""GradientSHAP: gradients at random points of the path from a baseline to the prompt."""

from typing import Annotated

import numpy as np

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import Baseline, MethodOutput, Steps, baseline_embeds, measure
from noiser.methods.gradients import Aggregation, aggregate, broadcast_shares, distance
from noiser.registry import Range, method
from noiser.rng import generator


@method(
    "gradient_shap",
    family="gradient",
    source="Lundberg & Lee 2017, arXiv:1705.07874",
    cost="samples rows of T tokens, forward and backward",
)
def gradient_shap(
    lm: LanguageModel,
    clean: CleanRun,
    objective: Objective,
    *,
    samples: Annotated[int, Range(1, 100_000)] = 5,
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
    seed: int = 0,
) -> Steps[MethodOutput]:
    """Mean gradient at random points of the path from a baseline to the prompt, times the distance.

    The points are uniform on the path. The expectation is integrated gradients; few samples give a noisy estimate.

    samples      number of random points, 5 as in Captum and Inseq.
    baseline     zero: zero embeddings; unk: the embedding of the tokenizer's unknown token everywhere (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed.

    Source: Lundberg & Lee 2017, arXiv:1705.07874, with one baseline and no noise on the input.
    """
    shares = generator(seed, clean.prompt.input_ids, "gradient_shap").random(samples)
    start = baseline_embeds(lm, clean, baseline)
    points = Interpolate(0, broadcast_shares(shares, len(clean.prompt)), start)
    (measurement,) = yield from measure(objective, [points], weights=(1 / samples,) * samples)
    assert measurement.gradient is not None
    return MethodOutput(aggregate(np.asarray(measurement.gradient) * distance(clean, start), aggregation))
