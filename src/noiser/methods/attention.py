"""Attention as explanation: the last layer's, and all layers multiplied through."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput
from noiser.registry import method

Variant = Literal["paper", "official"]
SAME_FOR_ALL = "Attention does not know the target: these scores are the same for any target, and for the foil."


def _last(_: Tensor | None, layer: Float[Tensor, "seq seq"]) -> Float[Tensor, "seq seq"]:
    return layer


def _rolled(before: Tensor | None, layer: Float[Tensor, "seq seq"]) -> Float[Tensor, "seq seq"]:
    mixed = 0.5 * layer + 0.5 * torch.eye(len(layer), device=layer.device)
    return mixed if before is None else mixed @ before


@method(
    "last_attention",
    family="attention",
    source="Jain et al. 2020, arXiv:2005.00115",
    cost="1 row of T tokens",
    requires=_last,
    paper_normalization="softmax",
)
def last_attention(lm: LanguageModel, clean: CleanRun, goal: Objective, *, variant: Variant = "paper") -> MethodOutput:  # noqa: ARG001
    """How much the last position attends to each token: last layer, mean over heads. In [0, 1], adds up to 1.

    The target has no say in it. A target of several tokens gets the mean over the positions that predict them.

    variant  official: the released code's, the weights softmaxed once more, which makes them nearly uniform.

    Source: Jain et al. 2020, arXiv:2005.00115.
    """
    return _attended(clean, goal, variant)


@method(
    "attention_rollout",
    family="attention",
    source="Abnar & Zuidema 2020, arXiv:2005.00928",
    cost="1 row of T tokens",
    requires=_rolled,
    paper_normalization="softmax",
)
def attention_rollout(lm: LanguageModel, clean: CleanRun, goal: Objective, *, variant: Variant = "paper") -> MethodOutput:  # noqa: ARG001
    """How much of each token flows into the last position through all layers. In [0, 1], adds up to 1.

    Each layer is 0.5 A + 0.5 I, A its attention weights, mean over heads; the layers are multiplied through. The target has
    no say in it. A target of several tokens gets the mean over the positions that predict them.

    variant  official: the released code's, the result softmaxed once more, which makes it nearly uniform.

    Source: Abnar & Zuidema 2020, arXiv:2005.00928.
    """
    return _attended(clean, goal, variant)


def _attended(clean: CleanRun, goal: Objective, variant: Variant) -> MethodOutput:
    branch = goal.branches[0]
    folded = branch.clean.source.attention
    assert folded is not None
    scores = folded[list(branch.logit_fn.ends), : len(clean.prompt)].cpu().double().numpy().mean(0)
    if variant == "official":
        scores = np.exp(scores) / np.exp(scores).sum()
    return MethodOutput(scores, {"warnings": [SAME_FOR_ALL] if goal.target.foil or goal.target.rank else []})
