"""GradientSHAP: gradients at random points of the path from a baseline to the prompt."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from noiser.lm.ahead import RowsAhead
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import Baseline, MethodOutput, Steps, baseline_embeds, measure_ahead
from noiser.methods.gradients import Aggregation, aggregate, broadcast_shares, distance
from noiser.methods.uncertainty import stderr_of_mean
from noiser.registry import Range, method
from noiser.rng import generator
from noiser.text.prompt import Prompt

MAX_KEPT = 1 << 26
"""Numbers in the gradients of all samples. Above it (half a gigabyte) they are not kept, and there are no standard errors."""


def rows_ahead(lm: LanguageModel, prompt: Prompt, options: Mapping[str, Any]) -> RowsAhead:
    """The random points, which do not depend on the clean run."""
    samples = options["samples"]
    shares = generator(options["seed"], prompt.input_ids, "gradient_shap").random(samples)
    points = Interpolate(0, broadcast_shares(shares, len(prompt)), baseline_embeds(lm, prompt, options["baseline"]))
    keep = samples * len(prompt) * lm.width <= MAX_KEPT
    return RowsAhead(points, (1 / samples,) * samples, row_gradients=keep)


@method(
    "gradient_shap",
    family="gradient",
    source="Lundberg & Lee 2017, arXiv:1705.07874",
    cost="samples rows of T tokens, forward and backward",
    ahead=rows_ahead,
    changes="all embeddings are at random points between the baseline and the prompt",
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

    The points are uniform on the path. The expectation is integrated gradients; few samples give a noisy estimate, and `stderr`
    says how noisy. With aggregation=l2 the noise also adds to the lengths, so scores of few samples are too high on average;
    `stderr` does not contain that.

    samples      number of random points, 5 as in Captum and Inseq.
    baseline     zero: zero embeddings; unk: the embedding of the tokenizer's unknown token everywhere (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed.

    Source: Lundberg & Lee 2017, arXiv:1705.07874, with one baseline and no noise on the input.
    """
    ahead = rows_ahead(lm, clean.prompt, {"samples": samples, "baseline": baseline, "seed": seed})
    measurement = yield from measure_ahead(objective, ahead)
    way = distance(clean, baseline_embeds(lm, clean.prompt, baseline))
    assert measurement.gradient is not None
    contributions = np.asarray(measurement.gradient) * way
    if measurement.row_gradients is None:
        return MethodOutput(aggregate(contributions, aggregation))
    stderr, dof = stderr_of_mean(row_parts(contributions, samples * measurement.row_gradients * way, aggregation))
    return MethodOutput(aggregate(contributions, aggregation), {}, stderr, dof or None)


def row_parts(
    mean: Float[np.ndarray, "seq dim"], rows: Float[np.ndarray, "rows seq dim"], aggregation: Aggregation
) -> Float[np.ndarray, "seq rows"]:
    """What each row adds to each score: its sum, or its part along the mean, which is a length's change to first order."""
    if aggregation == "sum":
        return rows.sum(-1).T
    length = np.linalg.norm(mean, axis=-1, keepdims=True)
    return np.einsum("rsd,sd->sr", rows, mean / np.where(length > 0, length, 1.0))
