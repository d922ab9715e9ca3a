"""The explained quantity under perturbations, whatever sequences it is read from, and its gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from noiser.lm.ahead import RowsAhead
from noiser.lm.perturbation import ModelContext, Perturbation, PerturbedRows, Readout
from noiser.lm.requests import Steps, ask
from noiser.lm.target import Branch, Objective


@dataclass(frozen=True, eq=False)
class Measurement:
    """The explained quantity under one perturbation."""

    values: Float[np.ndarray, " rows"]
    """In each perturbed row."""
    anchor: float | None
    """In an unperturbed row of the same batch. None if none was requested."""
    gradient: Float[np.ndarray, "span dim"] | None
    """Weighted sum over the rows of the gradient with respect to the perturbed embeddings. None without weights."""
    row_gradients: Float[np.ndarray, "rows span dim"] | None = None
    """The parts of that sum. None unless requested."""


def measure(
    objective: Objective,
    perturbations: Sequence[Perturbation],
    *,
    anchor: bool = False,
    weights: tuple[float, ...] | None = None,
    row_gradients: bool = False,
    model_context: ModelContext | None = None,
) -> Steps[list[Measurement]]:
    """The explained quantity under each perturbation, whatever sequences it is read from. With `weights`, its gradient too."""
    options: dict[str, Any] = {"anchor": anchor, "weights": weights, "row_gradients": row_gradients, "model_context": model_context}
    perturbed = [
        PerturbedRows(branch.clean, perturbation, branch.logit_fn, **options)
        for perturbation in perturbations
        for branch in objective.branches
    ]
    readouts = iter((yield from ask(perturbed)))
    return [_signed_sum(objective.branches, [next(readouts) for _ in objective.branches]) for _ in perturbations]


def measure_ahead(objective: Objective, ahead: RowsAhead) -> Steps[Measurement]:
    """The explained quantity in these rows and its gradient, from the clean run if they went through the model with it."""
    read = objective.branches[0].clean.ahead
    if read is not None and len(objective.branches) == 1:
        by_row = None if read.parts is None else _to_numpy(read.parts)
        return Measurement(np.array(read.values), None, _to_numpy(read.total), by_row)
    (measurement,) = yield from measure(objective, [ahead.perturbation], weights=ahead.weights, row_gradients=ahead.row_gradients)
    return measurement


def _signed_sum(branches: Sequence[Branch], readouts: Sequence[Readout]) -> Measurement:
    pairs = list(zip(branches, readouts, strict=True))
    gradients = [branch.sign * _to_numpy(readout.gradient) for branch, readout in pairs if readout.gradient is not None]
    by_row = [branch.sign * _to_numpy(readout.row_gradients) for branch, readout in pairs if readout.row_gradients is not None]
    return Measurement(
        values=np.sum([branch.sign * np.array(readout.values) for branch, readout in pairs], axis=0),
        anchor=None if readouts[0].anchor is None else sum(branch.sign * (readout.anchor or 0.0) for branch, readout in pairs),
        gradient=np.sum(gradients, axis=0) if gradients else None,
        row_gradients=np.sum(by_row, axis=0) if by_row else None,
    )


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().double().numpy()
