"""Input x gradient, and what the gradient methods share: baselines, and one score from a token's whole embedding."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiser.errors import OptionError
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.quantity import DISTANCES
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, measure
from noiser.registry import method

Aggregation = Literal["l2", "sum"]


@method(
    "input_x_gradient",
    family="gradient",
    source="Denil et al. 2015, arXiv:1412.6815",
    cost="1 row of T tokens, forward and backward",
    changes="nothing: the gradient at the prompt itself",
    requires="objective",
)
def input_x_gradient(
    lm: LanguageModel,  # noqa: ARG001
    clean: CleanRun,
    objective: Objective,
    *,
    aggregation: Aggregation = "l2",
) -> Steps[MethodOutput]:
    """Each token's embedding times the gradient of the explained quantity with respect to it.

    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0, higher is more important (the paper's);
                 sum: signed, the first-order change in the quantity if the embedding were zero.

    Source: Denil, Demiraj & de Freitas 2015, arXiv:1412.6815.
    """
    check_slope(objective)
    gradient = clean_gradient(clean, objective)
    if gradient is None:
        unchanged = Interpolate(0, broadcast_shares(np.ones(1), len(clean.prompt)))
        (measurement,) = yield from measure(objective, [unchanged], weights=(1.0,))
        assert measurement.gradient is not None
        gradient = measurement.gradient
    return MethodOutput(aggregate(gradient * distance(clean, None), aggregation))


def check_slope(objective: Objective) -> None:
    """Raises OptionError for a quantity whose gradient at the clean run is 0 whatever the model: all scores would be 0."""
    if objective.target.quantity in DISTANCES:
        raise OptionError(
            f"{objective.target.quantity} is smallest at the clean run itself, so its gradient there is 0 and this method has nothing to "
            "score: take integrated_gradients, gradient_shap, or a method that perturbs, such as occlusion or noiser"
        )


def distance(clean: CleanRun, baseline: Float[Tensor, "seq dim"] | None) -> Float[np.ndarray, "seq dim"]:
    """The embeddings minus the baseline, float64."""
    embeds = clean.embeds.double() if clean.embeds.device.type != "mps" else clean.embeds.float()
    return (embeds if baseline is None else embeds - baseline.to(embeds)).cpu().numpy().astype(np.float64)


def clean_gradient(clean: CleanRun, objective: Objective) -> Float[np.ndarray, "seq dim"] | None:
    """The gradient of the explained quantity from the clean runs. None if one of them had no memory for it."""
    gradients = [branch.clean.gradient for branch in objective.branches]
    if any(gradient is None for gradient in gradients):
        return None
    parts = [gradient[: len(clean.prompt)].cpu().double().numpy() for gradient in gradients if gradient is not None]
    return np.sum([branch.sign * part for branch, part in zip(objective.branches, parts, strict=True)], axis=0)


def aggregate(contributions: Float[np.ndarray, "seq dim"], aggregation: Aggregation) -> Float[np.ndarray, " seq"]:
    """One score for each token: the Euclidean length (`l2`) or the signed sum (`sum`) over the embedding's dimensions."""
    return np.linalg.norm(contributions, axis=-1) if aggregation == "l2" else contributions.sum(-1)


def broadcast_shares(shares: Float[np.ndarray, " rows"], span: int) -> Float[Tensor, "rows span"]:
    """The same share at every position of a row."""
    return torch.from_numpy(shares.astype(np.float32))[:, None].expand(-1, span)
