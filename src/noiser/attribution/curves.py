"""Removal curves: the explained quantity as the tokens with the highest scores are removed, and as only they are kept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float

from noiser.errors import NoiserError, OptionError
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate, Perturbation
from noiser.lm.requests import Steps, deduplicate, gather
from noiser.lm.scheduler import schedule
from noiser.lm.target import Objective, Question, measure, resolve_target
from noiser.results.attribution import Attribution, Comparison, Curve

ROUNDING = 0.02
"""The largest difference between two computations of the explained quantity. bfloat16 reaches it in batches of another shape."""
POINTS = 24
"""A longer prompt gets a curve at this many numbers of tokens. They are close together at the beginning of the curve."""

R = TypeVar("R", Attribution, Comparison)
Kept = Bool[np.ndarray, " seq"]


def with_curves(lm: LanguageModel, result: R) -> R:
    """The same result with removal curves (`Attribution.curves`): the explained quantity without, and with only, the highest tokens.

    A token is removed by setting its embedding to zero. At most `2 POINTS` rows of T tokens go through the model for each method
    and target; methods share the rows that are equal. Tokens with equal scores keep the order of the prompt. An attribution gets a
    warning instead of curves if its target is a function (a result does not keep it), if memory is too small, or if the model
    gives NaN.

    Raises OptionError if the result is of another model: by name and revision, or because this one gives the target another
    probability.
    """
    attributions = result.attributions if isinstance(result, Comparison) else (result,)
    first = attributions[0]
    if (first.model, first.revision) != (lm.name, lm.revision):
        raise OptionError(f"this result explains {first.model} ({first.revision}); the model is {lm.name} ({lm.revision})")
    completed = _add_curves(lm, attributions)
    copy: Any = replace(result, attributions=completed) if isinstance(result, Comparison) else completed[0]
    return copy


def _add_curves(lm: LanguageModel, attributions: Sequence[Attribution]) -> tuple[Attribution, ...]:
    if attributions[0].target.quantity.startswith("function"):
        reason = "a result does not keep its target function, so the function cannot be computed again"
        return tuple(_add_warning(attribution, reason) for attribution in attributions)
    (job,) = schedule(lm, [_curves(lm, attributions)])
    if isinstance(job.error, OptionError):
        raise job.error
    if job.result is None:
        return tuple(_add_warning(attribution, str(job.error)) for attribution in attributions)
    return tuple(replace(attribution, curves=curves) for attribution, curves in zip(attributions, job.result, strict=True))


def _add_warning(attribution: Attribution, reason: str | NoiserError) -> Attribution:
    warnings = [*attribution.notes.get("warnings", ()), f"no removal curves: {reason}"]
    return replace(attribution, notes={**attribution.notes, "warnings": warnings})


def _curves(lm: LanguageModel, attributions: Sequence[Attribution]) -> Steps[list[tuple[Curve, ...]]]:
    """For each method the curves of all targets. The model runs equal requests once."""
    first = attributions[0]
    resolved = yield from resolve_target(lm.tokens, first.prompt.cropped(_prompt_length(first)), _question(first), None)
    for (_, objective), target in zip(resolved, first.targets, strict=True):
        explained = target.prob if target.value is None else target.value
        if abs(objective.value - explained) > ROUNDING * max(1.0, abs(explained)):
            tokens = objective.target.tokens
            raise OptionError(f"this model gives {tokens} the value {objective.value:.4g}; the result explains {explained:.4g}")
    perturbations: dict[bytes, Perturbation] = {}
    parts = [
        _curve(objective, attribution.scores[row, : len(clean.prompt)], perturbations)
        for attribution in attributions
        for row, (clean, objective) in enumerate(resolved)
    ]
    curves = yield from deduplicate(gather(parts))
    return [tuple(curves[start : start + len(resolved)]) for start in range(0, len(curves), len(resolved))]


def _prompt_length(attribution: Attribution) -> int:
    """The length of the prompt that the question is about. It counts the tokens before a span, but not those of a continuation."""
    if len(attribution.targets) > 1 and attribution.given is not None:
        return attribution.given
    return attribution.target.context or len(attribution.prompt)


def _question(attribution: Attribution) -> Question:
    target = attribution.target
    if len(attribution.targets) > 1:
        continuation = tuple(ids for row_target in attribution.targets for ids in row_target.token_ids)
        return Question(continuation=continuation, quantity=target.quantity)
    is_prediction = target.rank == 0 and len(target.token_ids) == 1  # the prediction may be an id that no text has
    foil = target.foil.token_ids if target.foil else None
    return Question(None if is_prediction else target.token_ids, foil, quantity=target.quantity)


def _curve(objective: Objective, scores: Float[np.ndarray, " seq"], perturbations: dict[bytes, Perturbation]) -> Steps[Curve]:
    seq = len(scores)
    order = np.argsort(-scores, kind="stable").tolist()
    counts = _counts(seq)
    inner = counts[1:-1]
    rows = [~_first(order, count) for count in (*inner, seq)] + [_first(order, count) for count in inner]
    measurements = yield from measure(objective, [_erase_others(kept, perturbations) for kept in rows])
    values = [float(measurement.values[0]) for measurement in measurements]
    empty = values[len(inner)]
    removed, kept = values[: len(inner)], values[len(inner) + 1 :]
    return Curve(tuple(order), counts, (objective.value, *removed, empty), (empty, *kept, objective.value))


def _counts(seq: int) -> tuple[int, ...]:
    """Numbers of tokens from none to all: every number for a short prompt, about a geometric sequence for a longer one."""
    if seq <= POINTS:
        return tuple(range(seq + 1))
    return (0, *np.unique(np.geomspace(1, seq, POINTS).round().astype(int)).tolist())


def _first(order: Sequence[int], count: int) -> Kept:
    mask = np.zeros(len(order), dtype=bool)
    mask[list(order[:count])] = True
    return mask


def _erase_others(kept: Kept, perturbations: dict[bytes, Any]) -> Perturbation:
    """Set the embeddings of all tokens but `kept` to zero, from the first such token on. Equal tokens give the same object."""
    key = kept.tobytes()
    if key not in perturbations:
        start = int(np.argmin(kept))
        perturbations[key] = Interpolate(start, torch.from_numpy(kept[start:].astype(np.float32))[None])
    return perturbations[key]
