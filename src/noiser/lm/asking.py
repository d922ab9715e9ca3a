"""What can be asked of the engine on the way to an attribution. Whoever works on a prompt is a generator that yields these."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

from noiser.errors import JudgeError
from noiser.judging import Clue, Judge, Reply
from noiser.lm.attention import Fold
from noiser.lm.prefix import Clean
from noiser.lm.probe import Probe, Reading
from noiser.prompts import Prompt

R = TypeVar("R")
Along = Literal["margin", "goal"] | Fold | None
"""What a method has its clean runs take along: the gradient of the top-two margin, or of what is explained; or their
attention weights, folded."""
Slopes = Callable[[Tensor], Mapping[int, Tensor]]
"""From the logits at the ends [ends, vocab] to scalars whose gradients are wanted, each named by the end that it is kept with."""


@dataclass(frozen=True)
class CleanRun:
    """A sequence run unperturbed, once. Answered by a Clean for its beginning up to each of the ends."""

    prompt: Prompt
    ends: tuple[int, ...]
    """Positions, ascending; the last of the sequence among them."""
    slopes: Slopes | None = None
    """What gradients to take along with it."""
    fold: Fold | None = None
    """What to make of its attention weights."""


@dataclass(frozen=True)
class Generation:
    """The model's own continuation, greedy. Answered by its token ids, `count` at most."""

    prompt: Prompt
    count: int


@dataclass(frozen=True, eq=False)
class Consultation:
    """What a judge is to say. Answered by a reply, or why there is none, for each clue."""

    judge: Judge
    clues: tuple[Clue, ...]


Request = CleanRun | Generation | Consultation | list[Probe]
Answer = list[Clean] | tuple[int, ...] | list[Reply | JudgeError] | list[Reading]
Asking = Generator[Request, Answer, R]
