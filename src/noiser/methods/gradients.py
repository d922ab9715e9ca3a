"""What the gradient methods have in common: baselines, quadrature, and one score from a token's whole embedding."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, measure
from noiser.registry import method

Aggregation = Literal["l2", "sum"]
Baseline = Literal["zero", "unk"]


def baseline_embeds(lm: LanguageModel, clean: CleanRun, baseline: Baseline) -> Float[Tensor, "seq dim"] | None:
    """What stands for an absent token at each position: None for zeros, or the embedding of the unknown token (as in Inseq)."""
    if baseline == "zero":
        return None
    return lm.embeddings([lm.tokens.unknown]).expand(len(clean.prompt), -1)


def distance(clean: CleanRun, baseline: Float[Tensor, "seq dim"] | None) -> Float[np.ndarray, "seq dim"]:
    """The embeddings less the baseline."""
    embeds = clean.embeds.double() if clean.embeds.device.type != "mps" else clean.embeds.float()
    return (embeds if baseline is None else embeds - baseline.to(embeds)).cpu().numpy().astype(np.float64)


def clean_gradient(clean: CleanRun, goal: Objective) -> Float[np.ndarray, "seq dim"] | None:
    """The explained quantity's gradient from the clean runs themselves; None where one of them had no memory for it."""
    found = [branch.clean.gradient for branch in goal.branches]
    if any(gradient is None for gradient in found):
        return None
    parts = [gradient[: len(clean.prompt)].cpu().double().numpy() for gradient in found if gradient is not None]
    return np.sum([branch.sign * part for branch, part in zip(goal.branches, parts, strict=True)], axis=0)


def aggregated(product: Float[np.ndarray, "seq dim"], aggregation: Aggregation) -> Float[np.ndarray, " seq"]:
    """One score for each token: the Euclidean length of what its dimensions contribute, or their signed sum."""
    return np.linalg.norm(product, axis=-1) if aggregation == "l2" else product.sum(-1)


def broadcast_shares(shares: Float[np.ndarray, " rows"], span: int) -> Float[Tensor, "rows span"]:
    """The same share at every position of a row."""
    return torch.from_numpy(shares.astype(np.float32))[:, None].expand(-1, span)


@method(
    "input_x_gradient",
    family="gradient",
    source="Denil et al. 2015, arXiv:1412.6815",
    cost="1 row of T tokens, forward and backward",
    requires="objective",
)
def input_x_gradient(lm: LanguageModel, clean: CleanRun, goal: Objective, *, aggregation: Aggregation = "l2") -> Steps[MethodOutput]:  # noqa: ARG001
    """Each token's embedding times the gradient of the explained quantity with respect to it.

    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0, higher matters more (the paper's);
                 sum: signed, the first-order change in the quantity if the embedding were to vanish.

    Source: Denil, Demiraj & de Freitas 2015, arXiv:1412.6815.
    """
    gradient = clean_gradient(clean, goal)
    if gradient is None:
        (found,) = yield from measure(goal, [Interpolate(0, broadcast_shares(np.ones(1), len(clean.prompt)))], weights=(1.0,))
        assert found.gradient is not None
        gradient = found.gradient
    return MethodOutput(aggregated(gradient * distance(clean, None), aggregation))
