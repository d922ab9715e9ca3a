"""What is read off a row's logits: one number, differentiable, so that every method can explain it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from noiser.errors import NonFiniteError, OptionError

Scalar = Callable[[Tensor], Tensor]
"""A user's own quantity: the next token's logits [vocab], float32, to a scalar tensor."""


@dataclass(frozen=True, eq=False)
class LogitFn:
    """A number for each row, from the logits at some positions of its sequence."""

    ends: tuple[int, ...]
    """The positions, ascending; the last is the last of the sequence."""
    function: Callable[[Float[Tensor, "rows ends vocab"]], Float[Tensor, " rows"]]


def token_logit_fn(quantity: str, ids: Sequence[int], ends: Sequence[int]) -> LogitFn:
    """Of the tokens `ids`, read one at each end: `prob`, their joint probability; `log_prob`, its logarithm, so a sum; or
    `mean_prob`, the mean of their probabilities, each given those before it."""
    wanted = torch.tensor(ids).view(1, -1, 1)

    def gathered(values: Tensor) -> Tensor:
        return wide(values.gather(-1, wanted.to(values.device).expand(len(values), -1, 1)).squeeze(-1))

    ways = {
        "prob": lambda logits: gathered(logits.float().softmax(-1)).prod(-1),
        "mean_prob": lambda logits: gathered(logits.float().softmax(-1)).mean(-1),
        "log_prob": lambda logits: gathered(logits.float().log_softmax(-1)).sum(-1),
    }
    return LogitFn(tuple(ends), ways[quantity])


def difference(quantity: str, token: int, foil: int, end: int) -> LogitFn:
    """Of two tokens that could come next: `prob`, P(token) - P(foil); or `log_odds`, log P(token) - log P(foil)."""

    def of(logits: Float[Tensor, "rows 1 vocab"]) -> Float[Tensor, " rows"]:
        values = logits[:, 0].float()
        values = wide(values.softmax(-1) if quantity == "prob" else values)
        return values[:, token] - values[:, foil]

    return LogitFn((end,), of)


def custom(function: Scalar, end: int) -> LogitFn:
    """Whatever the user's function makes of the next token's logits. Raises OptionError where that is no scalar tensor,
    NonFiniteError where it is NaN or infinite; what the function itself raises passes through."""

    def of(logits: Float[Tensor, "rows 1 vocab"]) -> Float[Tensor, " rows"]:
        values = wide(torch.stack([_scalar(function(row)) for row in logits[:, 0].float()]))
        if logits.isfinite().all() and not values.isfinite().all():
            raise NonFiniteError("the function gave NaN or infinity for finite logits: there is nothing to score")
        return values

    return LogitFn((end,), of)


def check_slope(scalar: Tensor) -> None:
    """Raises OptionError where there is no gradient to take."""
    if not scalar.requires_grad:
        raise OptionError("the function's result has no gradient: gradient methods need one that is differentiable, the others do not")


def wide(tensor: Tensor) -> Tensor:
    """In float64; float32 on Apple's GPU, which has no other."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _scalar(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        came = f"a tensor of shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise OptionError(f"a target that is a function takes logits [vocab] to a scalar tensor; it returned {came}")
    return value.reshape(())
