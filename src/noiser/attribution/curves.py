"""Removal curves: the explained quantity as the tokens with the highest scores are removed, and as only they are kept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float

from noiser.errors import NoiserError, OptionError
from noiser.lm.measure import measure
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate, Perturbation
from noiser.lm.requests import Steps, deduplicate, gather
from noiser.lm.scheduler import schedule
from noiser.lm.target import Objective, Question, resolve_target
from noiser.results.attribution import Attribution, Comparison, Curve

ROUNDING = 0.02
"""How far two computations of the explained quantity may differ, as a share: bfloat16 in batches of another shape does."""
POINTS = 24
"""The number of points on the curve of a longer prompt, close together at the beginning."""

R = TypeVar("R", Attribution, Comparison)
Kept = Bool[np.ndarray, " seq"]


def with_curves(lm: LanguageModel, result: R) -> R:
    """The same result with `Attribution.curves`: how the explained quantity changes as the highest tokens are removed, or kept alone.

    A token is removed by setting its embedding to zero. At most `2 POINTS` rows of T tokens go through the model for each method
    and target; methods share equal rows. Equal scores are ordered as in the prompt. An attribution without curves says why in its
    warnings: its target is a function (which is not stored), memory is too small, or a value is NaN.

    Raises OptionError if the result is another model's: by name and revision, or because the model gives the target another value.
    """
    attributions = result.attributions if isinstance(result, Comparison) else (result,)
    first = attributions[0]
    if (first.model, first.revision) != (lm.name, lm.revision):
        raise OptionError(f"this explains {first.model} ({first.revision}); the model given is {lm.name} ({lm.revision})")
    extended = _extend(lm, attributions)
    with_them: Any = replace(result, attributions=extended) if isinstance(result, Comparison) else extended[0]
    return with_them


def _extend(lm: LanguageModel, attributions: Sequence[Attribution]) -> tuple[Attribution, ...]:
    if attributions[0].target.quantity.startswith("function"):
        return tuple(_without(one, "a function of the logits is not stored, so it cannot be computed again") for one in attributions)
    (job,) = schedule(lm, [_curves(lm, attributions)])
    if isinstance(job.error, OptionError):
        raise job.error
    if job.result is None:
        return tuple(_without(one, str(job.error)) for one in attributions)
    return tuple(replace(one, curves=curves) for one, curves in zip(attributions, job.result, strict=True))


def _without(attribution: Attribution, reason: str | NoiserError) -> Attribution:
    warnings = [*attribution.notes.get("warnings", ()), f"no removal curves: {reason}"]
    return replace(attribution, notes={**attribution.notes, "warnings": warnings})


def _curves(lm: LanguageModel, each: Sequence[Attribution]) -> Steps[list[tuple[Curve, ...]]]:
    """For each method the curves of all targets; what is asked of the model twice runs once."""
    first = each[0]
    posed = yield from resolve_target(lm.tokens, first.prompt.cropped(_length(first)), _question(first), None)
    for (_, goal), target in zip(posed, first.targets, strict=True):
        explained = target.prob if target.value is None else target.value
        if abs(goal.value - explained) > ROUNDING * max(1.0, abs(explained)):
            raise OptionError(f"the model given holds {goal.target.tokens} for {goal.value:.4g}, what was explained is {explained:.4g}")
    edits: dict[bytes, Perturbation] = {}
    parts = [_curve(goal, one.scores[row, : len(clean.prompt)], edits) for one in each for row, (clean, goal) in enumerate(posed)]
    found = yield from deduplicate(gather(parts))
    return [tuple(found[start : start + len(posed)]) for start in range(0, len(found), len(posed))]


def _length(attribution: Attribution) -> int:
    """Of the prompt that the question was asked about: a continuation's tokens are not part of it, those before a span are."""
    if len(attribution.targets) > 1 and attribution.given is not None:
        return attribution.given
    return attribution.target.context or len(attribution.prompt)


def _question(attribution: Attribution) -> Question:
    target = attribution.target
    if len(attribution.targets) > 1:
        return Question(continuation=tuple(ids for each in attribution.targets for ids in each.token_ids), quantity=target.quantity)
    own = None if target.rank == 0 and len(target.token_ids) == 1 else target.token_ids  # it may be an id that no text has
    return Question(own, target.foil.token_ids if target.foil else None, quantity=target.quantity)


def _curve(goal: Objective, scores: Float[np.ndarray, " seq"], edits: dict[bytes, Perturbation]) -> Steps[Curve]:
    seq = len(scores)
    order = np.argsort(-scores, kind="stable").tolist()
    counts = _counts(seq)
    inner = counts[1:-1]
    rows = [~_first(order, count) for count in (*inner, seq)] + [_first(order, count) for count in inner]
    readings = yield from measure(goal, [_erased(kept, edits) for kept in rows])
    values = [float(reading.values[0]) for reading in readings]
    empty = values[len(inner)]
    removed, kept = values[: len(inner)], values[len(inner) + 1 :]
    return Curve(tuple(order), counts, (goal.value, *removed, empty), (empty, *kept, goal.value))


def _counts(seq: int) -> tuple[int, ...]:
    """The numbers of tokens on a curve, from 0 to all: every number for a short prompt, else growing by about the same factor."""
    if seq <= POINTS:
        return tuple(range(seq + 1))
    return (0, *np.unique(np.geomspace(1, seq, POINTS).round().astype(int)).tolist())


def _first(order: Sequence[int], count: int) -> Kept:
    chosen = np.zeros(len(order), dtype=bool)
    chosen[list(order[:count])] = True
    return chosen


def _erased(kept: Kept, edits: dict[bytes, Any]) -> Perturbation:
    """Zero embeddings for all but these, from the first that is not kept on: the same edit for the same tokens."""
    key = kept.tobytes()
    if key not in edits:
        start = int(np.argmin(kept))
        edits[key] = Interpolate(start, torch.from_numpy(kept[start:].astype(np.float32))[None])
    return edits[key]
