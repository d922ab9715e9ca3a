"""Perturbed rows that are known before the clean run go through the model with it.

All weights are read for a pass, so on a short prompt a pass of its own costs the clean run three times what one more row does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from noiser.lm.forward import call_model
from noiser.lm.kv_cache import RowGradients
from noiser.lm.perturbation import Perturbation
from noiser.lm.quantity import LogitFn, check_differentiable


@dataclass(frozen=True, eq=False)
class RowsAhead:
    """Rows that perturb a whole prompt, and the weights of the gradient that is wanted from them."""

    perturbation: Perturbation
    """It starts at position 0 and ends with the prompt."""
    weights: tuple[float, ...]
    """One for each row."""
    row_gradients: bool = False
    """Whether each row's own part of the gradient is kept too."""
    logit_fn_of: Callable[[Float[Tensor, "1 vocab"]], LogitFn] | None = None
    """What is read from each row, given the clean run's logits. The question says it."""


def run_with_rows(model: Any, embeds: Float[Tensor, "seq dim"], ahead: RowsAhead) -> tuple[Float[Tensor, "1 vocab"], RowGradients | None]:
    """One pass of the clean prompt and the rows: the clean run's logits, and what was read from the rows.

    The latter is None if a logit or a gradient of theirs is NaN or infinite.
    """
    assert ahead.logit_fn_of is not None
    rows = ahead.perturbation.apply(embeds, range(ahead.perturbation.rows))
    every = torch.cat([embeds[None], rows]).detach().requires_grad_()
    with torch.enable_grad():
        logits = call_model(model, inputs_embeds=every.clone(), logits_to_keep=1, use_cache=False).logits[:, -1:].to(every.device)
        clean = logits[0].detach().float()
        values = ahead.logit_fn_of(clean).function(logits[1:])
        total = (values * torch.tensor(ahead.weights, dtype=values.dtype, device=values.device)).sum()
        check_differentiable(total)
        parts = torch.autograd.grad(total, every)[0][1:].float()
    finite = bool(logits[1:].isfinite().all() and parts.isfinite().all())
    read = RowGradients(tuple(values.detach().tolist()), parts.sum(0), parts if ahead.row_gradients else None)
    return clean, read if finite else None
