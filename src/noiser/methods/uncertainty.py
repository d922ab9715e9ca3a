"""Standard errors of scores, from the random draws that a method made anyway."""

import numpy as np
from jaxtyping import Float


def stderr_of_mean(values: Float[np.ndarray, "scores draws"], *, pairs: bool = False) -> tuple[Float[np.ndarray, " scores"] | None, int]:
    """The standard error of each row's mean, and its degrees of freedom: the number of independent draws minus 1.

    With `pairs` each two neighbours are one draw: a noise vector and its negative. The error is None if there are fewer than two
    independent draws.
    """
    independent = values.reshape(len(values), -1, 2).mean(-1) if pairs else values
    draws = independent.shape[1]
    if draws < 2:
        return None, 0
    return independent.std(axis=1, ddof=1) / np.sqrt(draws), draws - 1
