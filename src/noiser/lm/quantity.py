"""The explained quantity as a differentiable function of logits, so that every method can explain it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from noiser.errors import NonFiniteError, OptionError

DISTANCES = ("hellinger", "jsd")
"""Quantities that are minus a distance of the whole next-token distribution from the clean one. They are at most 0, and 0 if clean."""

Scalar = Callable[[Tensor], Tensor]
"""A user's own quantity: takes the next token's logits [vocab], float32, and returns a scalar tensor."""


@dataclass(frozen=True, eq=False)
class LogitFn:
    """One number for each row, computed from the logits at some positions of its sequence."""

    ends: tuple[int, ...]
    """The positions, ascending. The last one is the end of the sequence."""
    function: Callable[[Float[Tensor, "rows ends vocab"]], Float[Tensor, " rows"]]
    reads: tuple[tuple[int, ...], ...] | Literal["distribution", "logits"] = "logits"
    """What the number depends on: the probabilities of some tokens, named for each end; all probabilities; or the logits themselves,
    which differ from the logarithms of the probabilities by a constant. A model behind a server is asked for no more than that."""


def token_logit_fn(quantity: str, ids: Sequence[int], ends: Sequence[int]) -> LogitFn:
    """A quantity of the tokens `ids`, one read at each end, each token given those before it.

    quantity  prob: their joint probability; log_prob: its logarithm, a sum; mean_prob: the mean of their probabilities.
    """
    index = torch.tensor(ids).view(1, -1, 1)

    def of_tokens(values: Tensor) -> Tensor:
        return to_float64(values.gather(-1, index.to(values.device).expand(len(values), -1, 1)).squeeze(-1))

    functions = {
        "prob": lambda logits: of_tokens(logits.float().softmax(-1)).prod(-1),
        "mean_prob": lambda logits: of_tokens(logits.float().softmax(-1)).mean(-1),
        "log_prob": lambda logits: of_tokens(logits.float().log_softmax(-1)).sum(-1),
    }
    return LogitFn(tuple(ends), functions[quantity], tuple((token,) for token in ids))


def contrast_logit_fn(quantity: str, token: int, foil: int, end: int) -> LogitFn:
    """A contrast of two possible next tokens.

    quantity  prob: P(token) - P(foil); log_odds: log P(token) - log P(foil).
    """

    def function(logits: Float[Tensor, "rows 1 vocab"]) -> Float[Tensor, " rows"]:
        values = logits[:, 0].float()
        values = to_float64(values.softmax(-1) if quantity == "prob" else values)
        return values[:, token] - values[:, foil]

    return LogitFn((end,), function, ((token, foil),))


def distance_logit_fn(quantity: str, reference: Float[Tensor, " vocab"], end: int) -> LogitFn:
    """Minus the distance of the next token's distribution from that of the `reference` logits, at most 0 (up to rounding, 1e-6).

    So a drop in this quantity is a distance: at least 0, whichever tokens became more or less probable.

    quantity  hellinger: sqrt(sum (sqrt p - sqrt q)^2 / 2), in [0, 1]. jsd: the Jensen-Shannon divergence in bits, in [0, 1].

    Sources: Hellinger 1909; Lin 1991, Divergence measures based on the Shannon entropy. The softmax is in float32, sums in float64.
    The gradient at the reference itself is 0: no change is smaller than none.
    """
    log_q = reference.detach().float().log_softmax(-1)
    compute = {"hellinger": _hellinger, "jsd": _jensen_shannon}[quantity]

    def function(logits: Float[Tensor, "rows 1 vocab"]) -> Float[Tensor, " rows"]:
        return 0.0 - compute(logits[:, 0].float().log_softmax(-1), log_q.to(logits.device))

    return LogitFn((end,), function, "distribution")


def _hellinger(log_p: Float[Tensor, "rows vocab"], log_q: Float[Tensor, " vocab"]) -> Float[Tensor, " rows"]:
    gap = (log_p / 2).exp() - (log_q / 2).exp()  # not sqrt(p): it has no gradient where p is 0 in float32
    half = gap.square().sum(-1, dtype=to_float64(gap[:, :0]).dtype) / 2
    return torch.where(half > 0, half, 1.0).sqrt() * (half > 0)  # the root has no gradient at 0


def _jensen_shannon(log_p: Float[Tensor, "rows vocab"], log_q: Float[Tensor, " vocab"]) -> Float[Tensor, " rows"]:
    """In bits: the mean of log(2p / (p + q)) under p, and of log(2q / (p + q)) under q, halved."""
    ratio = log_p - log_q
    even = softplus(torch.zeros_like(log_q[:1]))
    terms = log_p.exp() * (even - softplus(-ratio)) + log_q.exp() * (even - softplus(ratio))
    return terms.sum(-1, dtype=to_float64(terms[:, :0]).dtype) / (2 * math.log(2))


def custom_logit_fn(scalar: Scalar, end: int) -> LogitFn:
    """The user's function of the next token's logits.

    The result raises OptionError if the function returns no scalar tensor, and NonFiniteError if it returns NaN or infinity
    for finite logits. Exceptions of the function itself pass through.
    """

    def function(logits: Float[Tensor, "rows 1 vocab"]) -> Float[Tensor, " rows"]:
        values = to_float64(torch.stack([_checked_scalar(scalar(row)) for row in logits[:, 0].float()]))
        if logits.isfinite().all() and not values.isfinite().all():
            raise NonFiniteError("the function gave NaN or infinity for finite logits: there is nothing to score")
        return values

    return LogitFn((end,), function)


def check_differentiable(scalar: Tensor) -> None:
    """Raises OptionError if the scalar has no gradient."""
    if not scalar.requires_grad:
        raise OptionError("the function's result has no gradient: gradient methods need one that is differentiable, the others do not")


def to_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64. On Apple's GPU, which has no float64, in float32."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _checked_scalar(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        came = f"a tensor of shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise OptionError(f"a target that is a function takes logits [vocab] to a scalar tensor; it returned {came}")
    return value.reshape(())
