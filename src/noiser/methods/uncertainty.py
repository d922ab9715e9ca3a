"""Standard errors of scores, from the random draws that a method made anyway."""

import numpy as np
from jaxtyping import Bool, Float


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


def ridge_stderr(
    present: Bool[np.ndarray, "rows units"],
    values: Float[np.ndarray, " rows"],
    weight: Float[np.ndarray, " rows"],
    alpha: float,
    *,
    group: int = 1,
    fixed: int = 0,
) -> tuple[Float[np.ndarray, " units"] | None, int]:
    """The jackknife's standard error of each coefficient of a weighted ridge regression with an intercept, and its degrees of freedom.

    The rows are draws, of which `group` neighbours are one: 2 for a mask and its complement. The first `fixed` rows were not drawn (the
    whole prompt) and are never left out. One factorisation gives what the coefficients would be without each draw, exactly. It holds
    for random masks and a quantity that is not linear in them. The error is None unless there are more draws than coefficients.

    Source: Efron & Stein 1981, doi:10.1214/aos/1176345462; the update for a group left out: Cook & Weisberg 1982, section 3.5.
    """
    rows, units = present.shape
    draws = (rows - fixed) // group
    dof = draws - units - 1
    if dof < 1:
        return None, 0
    root = np.sqrt(weight)
    design = np.column_stack([present, np.ones(rows)]).astype(np.float64) * root[:, None]
    penalty = np.diag([alpha] * units + [0.0])
    inverse = np.linalg.pinv(design.T @ design + penalty)
    coefficients = inverse @ (design.T @ (values * root))
    residual = values * root - design @ coefficients
    parts = design[fixed : fixed + draws * group].reshape(draws, group, units + 1)
    hat = np.einsum("dgi,ij,dhj->dgh", parts, inverse, parts)
    left = np.eye(group) - hat
    scaled = np.einsum("dgh,dh->dg", np.linalg.pinv(left), residual[fixed : fixed + draws * group].reshape(draws, group))
    changes = np.einsum("dg,dgi,ij->dj", scaled, parts, inverse)[:, :units]
    changes -= changes.mean(axis=0)
    return np.sqrt((draws - 1) / draws * (changes**2).sum(axis=0)), dof
