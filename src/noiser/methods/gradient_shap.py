"""GradientSHAP: integrated gradients in expectation."""

from typing import Annotated

import numpy as np

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, measure
from noiser.methods.gradients import Aggregation, Baseline, aggregated, baseline_embeds, broadcast_shares, distance
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
    goal: Objective,
    *,
    samples: Annotated[int, Range(1, 100_000)] = 5,
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
    seed: int = 0,
) -> Steps[MethodOutput]:
    """Gradients at points drawn uniformly from the path between a baseline and the prompt, averaged, times the distance.

    In expectation it is integrated gradients; with few samples it is a noisy estimate of them.

    samples      points drawn, 5 as in Captum and Inseq.
    baseline     zero: zero embeddings; unk: the embedding of the tokenizer's unknown token everywhere (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed.

    Source: Lundberg & Lee 2017, arXiv:1705.07874; the form with one baseline and no noise on the input.
    """
    shares = generator(seed, clean.prompt.input_ids, "gradient_shap").random(samples)
    start = baseline_embeds(lm, clean, baseline)
    (found,) = yield from measure(
        goal, [Interpolate(0, broadcast_shares(shares, len(clean.prompt)), start)], weights=(1 / samples,) * samples
    )
    assert found.gradient is not None
    return MethodOutput(aggregated(np.asarray(found.gradient) * distance(clean, start), aggregation))
