"""How whoever works on a prompt talks to the engine: it yields what it needs and is sent the answer.

So the engine can run many prompts side by side and put the rows of all of them into shared batches, while a method or a
metric reads like plain sequential code. One that needs no engine just returns.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
from jaxtyping import Float
from torch import Tensor

from noiser.errors import JudgeError
from noiser.judging import Clue, Judge, Reply
from noiser.lm.asking import Answer, Consultation, Request
from noiser.lm.edit import Edit
from noiser.lm.goal import Branch, Goal
from noiser.lm.probe import Probe, Reading, Within

T = TypeVar("T")
Steps = Generator[Request, Answer, T]


@dataclass(frozen=True, eq=False)
class Measured:
    """An edit, and what became of the explained quantity."""

    values: Float[np.ndarray, " rows"]
    """In each edited row."""
    anchor: float | None
    """In an unedited row beside them, where one was wanted."""
    gradient: Float[np.ndarray, "span dim"] | None
    """Weighted sum over the rows of the gradient with respect to the edited embeddings."""


def ask(probes: list[Probe]) -> Steps[list[Reading]]:
    """Send probes, receive readings."""
    readings = yield probes
    return cast(list[Reading], readings)


def consult(judge: Judge, clues: Sequence[Clue]) -> Steps[list[Reply | JudgeError]]:
    """Ask a judge, receive its replies, or why there is none to a clue."""
    replies = yield Consultation(judge, tuple(clues))
    return cast(list[Reply | JudgeError], replies)


def given(reply: Reply | JudgeError) -> Reply:
    """The reply. Raises JudgeError where there is none."""
    if isinstance(reply, JudgeError):
        raise JudgeError(str(reply))  # one of its own for each who asked
    return reply


def measure(
    goal: Goal, edits: Sequence[Edit], *, anchor: bool = False, weights: tuple[float, ...] | None = None, within: Within | None = None
) -> Steps[list[Measured]]:
    """The goal's quantity under each edit, whatever sequences it is read off; with `weights`, its gradient too."""
    pairs = [(edit, branch) for edit in edits for branch in goal.branches]
    probes = [Probe(branch.clean, edit, branch.measure, anchor=anchor, weights=weights, within=within) for edit, branch in pairs]
    readings = iter((yield from ask(probes)))
    return [_sum(goal.branches, [next(readings) for _ in goal.branches]) for _ in edits]


def _sum(branches: Sequence[Branch], readings: Sequence[Reading]) -> Measured:
    pairs = list(zip(branches, readings, strict=True))
    gradients = [branch.sign * _numpy(reading.gradient) for branch, reading in pairs if reading.gradient is not None]
    return Measured(
        values=np.sum([branch.sign * np.array(reading.values) for branch, reading in pairs], axis=0),
        anchor=None if readings[0].anchor is None else sum(branch.sign * (reading.anchor or 0.0) for branch, reading in pairs),
        gradient=np.sum(gradients, axis=0) if gradients else None,
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().double().numpy()
