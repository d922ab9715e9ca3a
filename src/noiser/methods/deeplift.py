"""DeepLIFT with the rescale rule."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2CLS

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, measure
from noiser.methods.gradients import Aggregation, Baseline, aggregated, baseline_embeds, broadcast_shares, clean_gradient, distance
from noiser.registry import method

CAPTUM = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus)
"""Elementwise modules that Captum's DeepLIFT has a rule for; pooling and softmax modules do not occur in decoders."""
ALL = (*CAPTUM, nn.SiLU, nn.GELU, nn.ReLU6, nn.Mish, nn.Hardswish, *{c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values()})
"""Every elementwise activation module that a Hugging Face decoder may hold."""
NO_RULE = "No activation of this model has a rule: these are gradients times the distance to the baseline. rules=all has more."
SMALL = 1e-6
"""Below this difference of an activation's inputs its slope stands for the ratio of differences, which would be rounding."""


@method(
    "deeplift",
    family="gradient",
    source="Shrikumar et al. 2017, arXiv:1704.02685",
    cost="2 rows of T tokens, forward and backward (1 where no activation has a rule)",
    requires="objective",
)
def deeplift(
    lm: LanguageModel,
    clean: CleanRun,
    goal: Objective,
    *,
    rules: Literal["captum", "all"] = "captum",
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
) -> Steps[MethodOutput]:
    """Gradients in which each activation's slope is the ratio of differences between prompt and baseline, times the distance.

    Rescale rule on activation modules; attention, normalisation and products of activations pass plain gradients, so
    contributions need not add up: `notes["completeness_gap"]` says by how much they miss (where any activation has a rule).

    rules        which activations have the rule: captum: those that Captum's has it for (ReLU, Tanh, Sigmoid ..., and not
                 SiLU or GELU, so that on most of today's models this is input x gradient); all: every activation module.
    baseline     zero: zero embeddings; unk: the embedding of the tokenizer's unknown token everywhere (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed.

    Source: Shrikumar, Greenside & Kundaje 2017, arXiv:1704.02685.
    """
    kinds = CAPTUM if rules == "captum" else ALL
    affected = sum(isinstance(module, kinds) for module in lm.model.modules())
    start = baseline_embeds(lm, clean, baseline)
    if not affected and (plain := clean_gradient(clean, goal)) is not None:
        return MethodOutput(aggregated(plain * distance(clean, start), aggregation), {"rescaled_modules": 0, "warnings": [NO_RULE]})
    edit = Interpolate(0, broadcast_shares(np.array([1.0, 0.0]), len(clean.prompt)), start)
    (found,) = yield from measure(goal, [edit], weights=(1.0, 0.0), within=RULES[rules])
    assert found.gradient is not None
    product = found.gradient * distance(clean, start)
    gap = float(product.sum()) - (goal.value - float(found.values[1]))
    notes = {"completeness_gap": gap, "rescaled_modules": affected, "warnings": [] if affected else [NO_RULE]}
    return MethodOutput(aggregated(product, aggregation), notes)


class _Rescaled(torch.autograd.Function):
    """An activation's output as it is; backwards the ratio of differences between the first row and the second."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, output: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(given, output, slope)
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        given, output, slope = (tensor.reshape(2, -1) for tensor in ctx.saved_tensors)  # prompt and baseline, however shaped
        inward, outward = given[:1] - given[1:], output[:1] - output[1:]
        ratio = torch.where(inward.abs() < SMALL, slope[:1], outward / torch.where(inward == 0, 1.0, inward))
        return gradients[0] * torch.cat([ratio, slope[1:]]).view_as(gradients[0]), None, None


@contextmanager
def _rescaled(model: Any, kinds: tuple[type, ...]) -> Iterator[None]:
    """Rows come in pairs inside, prompt and baseline; the hooks are gone afterwards, whatever happens."""

    def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Float[Tensor, "..."]:
        given = arguments[0]
        with torch.enable_grad():
            copy = given.detach().requires_grad_()
            (slope,) = torch.autograd.grad(module.forward(copy).sum(), copy)
        return _Rescaled.apply(given, output.detach(), slope)

    handles = [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, kinds)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _captum(model: Any) -> Any:
    return _rescaled(model, CAPTUM)


def _all(model: Any) -> Any:
    return _rescaled(model, ALL)


RULES = {"captum": _captum, "all": _all}
