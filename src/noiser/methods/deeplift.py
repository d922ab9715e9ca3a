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
from noiser.methods.base import Baseline, MethodOutput, Steps, baseline_embeds, measure
from noiser.methods.gradients import Aggregation, aggregate, broadcast_shares, check_slope, clean_gradient, distance
from noiser.registry import method

CAPTUM = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus)
"""Elementwise modules with a rule in Captum's DeepLIFT. Pooling and softmax modules do not occur in decoders."""
EVERY = (*CAPTUM, nn.SiLU, nn.GELU, nn.ReLU6, nn.Mish, nn.Hardswish, *{c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values()})
"""Every elementwise activation module of Hugging Face decoders."""
NO_RULE = "No activation of this model has a rule: these are gradients times the distance to the baseline. Try rules=all."
SMALL = 1e-6
"""If an activation's two inputs differ by less, its slope is used: the ratio of differences would be rounding error."""


@method(
    "deeplift",
    family="gradient",
    source="Shrikumar et al. 2017, arXiv:1704.02685",
    cost="2 rows of T tokens, forward and backward (1 where no activation has a rule)",
    changes="all embeddings are replaced by the baseline once, and activations compared",
    requires="objective",
)
def deeplift(
    lm: LanguageModel,
    clean: CleanRun,
    objective: Objective,
    *,
    rules: Literal["captum", "all"] = "captum",
    baseline: Baseline = "zero",
    aggregation: Aggregation = "l2",
) -> Steps[MethodOutput]:
    """Gradient times the distance to a baseline, with the slope of each activation replaced by its ratio of differences.

    The differences are those between prompt and baseline (rescale rule). Attention, normalisation and products of
    activations pass plain gradients, so the contributions need not add up: `notes["completeness_gap"]` is the error, in
    units of the quantity (if any activation has a rule).

    rules        captum: the activations with a rule in Captum (ReLU, Tanh, Sigmoid ..., but not SiLU or GELU, so on most
                 of today's models this is input x gradient); all: every activation module.
    baseline     zero: zero embeddings; unk: the embedding of the tokenizer's unknown token everywhere (as in Inseq).
    aggregation  l2: Euclidean length over the embedding's dimensions, at least 0 (the paper's); sum: signed.

    Source: Shrikumar, Greenside & Kundaje 2017, arXiv:1704.02685.
    """
    check_slope(objective)
    kinds = CAPTUM if rules == "captum" else EVERY
    rescaled = sum(isinstance(module, kinds) for module in lm.model.modules())
    start = baseline_embeds(lm, clean.prompt, baseline)
    if not rescaled and (plain := clean_gradient(clean, objective)) is not None:
        return MethodOutput(aggregate(plain * distance(clean, start), aggregation), {"rescaled_modules": 0, "warnings": [NO_RULE]})
    prompt_and_baseline = Interpolate(0, broadcast_shares(np.array([1.0, 0.0]), len(clean.prompt)), start)
    (measurement,) = yield from measure(objective, [prompt_and_baseline], weights=(1.0, 0.0), model_context=RULES[rules])
    assert measurement.gradient is not None
    contributions = measurement.gradient * distance(clean, start)
    gap = float(contributions.sum()) - (objective.value - float(measurement.values[1]))
    notes = {"completeness_gap": gap, "rescaled_modules": rescaled, "warnings": [] if rescaled else [NO_RULE]}
    return MethodOutput(aggregate(contributions, aggregation), notes)


class _RescaleRule(torch.autograd.Function):
    """Forward: an activation's output. Backward: the ratio of differences between the first row and the second."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, output: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, output, slope)
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        inputs, output, slope = (tensor.reshape(2, -1) for tensor in ctx.saved_tensors)
        input_change, output_change = inputs[:1] - inputs[1:], output[:1] - output[1:]
        ratio = torch.where(input_change.abs() < SMALL, slope[:1], output_change / torch.where(input_change == 0, 1.0, input_change))
        return gradients[0] * torch.cat([ratio, slope[1:]]).view_as(gradients[0]), None, None


@contextmanager
def _rescale(model: Any, kinds: tuple[type, ...]) -> Iterator[None]:
    """Apply the rescale rule inside the block to rows that come in pairs: prompt and baseline. Removes its hooks afterwards."""

    def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Float[Tensor, "..."]:
        inputs = arguments[0]
        with torch.enable_grad():
            copy = inputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(module.forward(copy).sum(), copy)
        return _RescaleRule.apply(inputs, output.detach(), slope)

    handles = [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, kinds)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _captum(model: Any) -> Any:
    return _rescale(model, CAPTUM)


def _all(model: Any) -> Any:
    return _rescale(model, EVERY)


RULES = {"captum": _captum, "all": _all}
