"""What becomes of a prediction as the tokens with the highest scores are removed, and as only they are kept."""

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
"""By how much two computations of the explained quantity may differ: bfloat16 in batches of another shape does by so much."""
POINTS = 24
"""A longer prompt gets a curve at so many numbers of tokens, close together at its beginning."""

R = TypeVar("R", Attribution, Comparison)
Kept = Bool[np.ndarray, " seq"]


def with_curves(lm: LanguageModel, result: R) -> R:
    """The same result, with what removing and keeping its highest tokens does to what it explains: `Attribution.curves`.

    A token is removed by setting its embedding to zero. At most `2 POINTS` rows of T tokens go through the model for each method
    and target; methods share the rows that are equal. Equal scores go by the order of the prompt. Where the curves cannot be had
    (a target function, which is not kept; not enough memory; NaN), the attribution says so in its warnings and has none.

    Raises OptionError where the result is another model's: by name and revision, or because it gives the target another probability.
    """
    each = result.attributions if isinstance(result, Comparison) else (result,)
    if (each[0].model, each[0].revision) != (lm.name, lm.revision):
        raise OptionError(f"this explains {each[0].model} ({each[0].revision}); the model given is {lm.name} ({lm.revision})")
    made = _made(lm, each)
    found: Any = replace(result, attributions=made) if isinstance(result, Comparison) else made[0]
    return found


def _made(lm: LanguageModel, each: Sequence[Attribution]) -> tuple[Attribution, ...]:
    if each[0].target.quantity.startswith("function"):
        return tuple(_without(one, "what a function of the logits gives is not computed again") for one in each)
    (job,) = schedule(lm, [_curves(lm, each)])
    if isinstance(job.error, OptionError):
        raise job.error
    if job.result is None:
        return tuple(_without(one, str(job.error)) for one in each)
    return tuple(replace(one, curves=curves) for one, curves in zip(each, job.result, strict=True))


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
    """None, all, and numbers between: every one of a short prompt, else each about the same factor more than the last."""
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
