"""How a method talks to the engine: it yields the probes it needs and is sent their readings.

So the engine can run many prompts side by side and put the rows of all of them into shared batches, while a method reads
like plain sequential code. A method that needs no engine just returns.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from noiser.lm.probe import Probe, Reading

T = TypeVar("T")
Steps = Generator[list[Probe], list[Reading], T]


@dataclass(frozen=True, eq=False)
class Scored:
    """What a method returns: one score for each token of the prompt, and what it noted on the way."""

    scores: Float[np.ndarray, " seq"]
    notes: Mapping[str, Any] = field(default_factory=dict)
