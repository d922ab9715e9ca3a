"""Attention weights as explanation: those of the last layer, or the product over all layers."""

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
SAME_FOR_ALL = "Attention does not depend on the target: these scores are the same for any target, and for the foil."


def _take_last(_: Tensor | None, layer: Float[Tensor, "seq seq"]) -> Float[Tensor, "seq seq"]:
    return layer


def _roll_out(before: Tensor | None, layer: Float[Tensor, "seq seq"]) -> Float[Tensor, "seq seq"]:
    mixed = 0.5 * layer + 0.5 * torch.eye(len(layer), device=layer.device)
    return mixed if before is None else mixed @ before


@method(
    "last_attention",
    family="attention",
    source="Jain et al. 2020, arXiv:2005.00115",
    cost="1 row of T tokens",
    changes="nothing: attention weights are read",
    requires=_take_last,
    paper_normalization="softmax",
)
def last_attention(lm: LanguageModel, clean: CleanRun, objective: Objective, *, variant: Variant = "paper") -> MethodOutput:  # noqa: ARG001
    """The attention of the last position to each token: last layer, mean over heads. In [0, 1], adds up to 1.

    It does not depend on the target. A target of several tokens gets the mean over the positions that predict them.

    variant  official: one more softmax, as in the released code, which makes the scores nearly uniform.

    Source: Jain et al. 2020, arXiv:2005.00115.
    """
    return _attention_scores(clean, objective, variant)


@method(
    "attention_rollout",
    family="attention",
    source="Abnar & Zuidema 2020, arXiv:2005.00928",
    cost="1 row of T tokens",
    changes="nothing: attention weights are read",
    requires=_roll_out,
    paper_normalization="softmax",
)
def attention_rollout(lm: LanguageModel, clean: CleanRun, objective: Objective, *, variant: Variant = "paper") -> MethodOutput:  # noqa: ARG001
    """The share of each token that flows into the last position through all layers. In [0, 1], adds up to 1.

    A layer with attention weights A (mean over heads) counts as 0.5 A + 0.5 I, and the layers are multiplied. It does not
    depend on the target. A target of several tokens gets the mean over the positions that predict them.

    variant  official: one more softmax, as in the released code, which makes the scores nearly uniform.

    Source: Abnar & Zuidema 2020, arXiv:2005.00928.
    """
    return _attention_scores(clean, objective, variant)


def _attention_scores(clean: CleanRun, objective: Objective, variant: Variant) -> MethodOutput:
    branch = objective.branches[0]
    attention = branch.clean.source.attention
    assert attention is not None
    scores = attention[list(branch.logit_fn.ends), : len(clean.prompt)].cpu().double().numpy().mean(0)
    if variant == "official":
        scores = np.exp(scores) / np.exp(scores).sum()
    return MethodOutput(scores, {"warnings": [SAME_FOR_ALL] if objective.target.foil or objective.target.rank else []})
