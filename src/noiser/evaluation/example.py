"""All methods and metrics on one example: one generator, whose rows share batches and none of which runs twice."""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import isgenerator
from numbers import Real
from typing import Any

import numpy as np

from noiser.errors import DeviceMemoryError, ForeignError, JudgeError, NoiserError, NonFiniteError, OptionError, TimeLimitError
from noiser.evaluation.spec import Measuring
from noiser.lm.devices import unify_memory_errors
from noiser.lm.model import LanguageModel
from noiser.lm.requests import CleanRunCache, Steps, cached, deduplicate, gather
from noiser.lm.scheduler import MAX_CONCURRENT, Job, schedule
from noiser.lm.target import Question, resolve_target
from noiser.metrics.sample import MetricContext, ScoresToEvaluate, Value
from noiser.results.records import OK, Record
from noiser.text.prompt import Prompt


@dataclass(frozen=True, eq=False)
class ExampleTask:
    """One example with every method's scores, ready to be judged."""

    name: str
    group: str | None
    prompt: Prompt
    question: Question
    candidates: Mapping[str, Sequence[ScoresToEvaluate]]
    """By the method's label; one for each explained token."""
    explained: Mapping[str, Sequence[tuple[int, ...]]]
    """By the method's label: what its scores explain, the ids of each target."""
    pool: Sequence[int]
    """Ids of tokens of the other examples' prompts."""
    cleans: CleanRunCache
    """Its clean runs so far."""


RESIDENT = 1 << 30
"""Bytes of uniform draws that are held at a time."""
Task = tuple[ExampleTask, tuple[str, ...], tuple[Measuring, ...]]
"""An example, and which methods and metrics of it."""


def judged(
    lm: LanguageModel, cases: Sequence[ExampleTask], measurings: Sequence[Measuring], limit: float | None = None
) -> Iterator[tuple[list[Record], Job]]:
    """The records of each case, in order, and the job that made them; one that takes more than `limit` seconds failed.

    Where something fails in a case, its methods and metrics are run one by one, so that each failure is its own; not where the
    time was up, which is all of theirs.
    """
    tasks: list[Task] = [(case, tuple(case.candidates), tuple(measurings)) for case in cases]
    running = schedule(lm, (_judge(lm, *task) for task in tasks), _at_once(lm, cases, measurings), limit)
    for (case, labels, columns), job in zip(tasks, running, strict=True):
        if job.error is None or isinstance(job.error, TimeLimitError):
            yield list(_records((case, labels, columns), job)), job
            continue
        alone: list[Task] = [(case, (label,), (column,)) for label in labels for column in columns]
        jobs = list(schedule(lm, (_judge(lm, *task) for task in alone), limit=limit))
        for each in jobs:
            job.seconds += each.seconds
            job.forward_tokens += each.forward_tokens
        yield [record for task, each in zip(alone, jobs, strict=True) for record in _records(task, each)], job


def _at_once(lm: LanguageModel, cases: Sequence[ExampleTask], measurings: Sequence[Measuring]) -> int:
    """How many cases may keep their masks' draws at a time: as many as fit into RESIDENT bytes, at least one."""
    drawn = {(column.gauge.options.get("masks", 0), column.gauge.options.get("seed", 0)) for column in measurings}
    masks = sum(count for count, _ in drawn)
    width = lm.model.get_input_embeddings().weight.shape[-1]
    scored = max((sum(len(each.scores) for each in next(iter(case.candidates.values()), ())) for case in cases), default=1)
    return max(1, min(MAX_CONCURRENT, RESIDENT // max(1, 4 * masks * width * scored)))


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method's or metric's function as a generator whose own exceptions come as a ForeignError."""

    def run(*arguments: Any, **options: Any) -> Any:
        try:
            with unify_memory_errors():
                found = function(*arguments, **options)
                return (yield from found) if isgenerator(found) else found
        except NoiserError:
            raise
        except Exception as error:
            raise ForeignError(f"{type(error).__name__}: {error}") from error

    return run


def status_of(error: NoiserError) -> str:
    """What a record says of an error."""
    if isinstance(error, NonFiniteError):
        return "nonfinite"
    if isinstance(error, DeviceMemoryError):
        return "oom"
    if isinstance(error, TimeLimitError):
        return "timeout"
    cause = error.__cause__ if isinstance(error, ForeignError) else None
    return f"error({type(cause or error).__name__})"


def trace_of(error: NoiserError) -> str:
    """Where an exception that is not noiser's own came from; empty for noiser's own."""
    return "".join(traceback.format_exception(error.__cause__)) if isinstance(error, ForeignError) and error.__cause__ else ""


def _judge(lm: LanguageModel, case: ExampleTask, labels: Sequence[str], columns: Sequence[Measuring]) -> Steps[list[Value]]:
    """The values of every method, metric and explained token, in this order."""
    posed = yield from cached(resolve_target(lm.tokens, case.prompt, case.question, None), case.cleans, None)
    samples = [MetricContext(lm, clean, goal, case.pool) for clean, goal in posed]
    for label in labels:
        if list(case.explained[label]) != [goal.target.token_ids for _, goal in posed]:
            raise OptionError(f"{label}: the scores given explain other tokens than the example asks for")
    parts = [
        _measured(column, sample, candidate)
        for label in labels
        for column in columns
        for sample, candidate in zip(samples, case.candidates[label], strict=True)
    ]
    return (yield from deduplicate(gather(parts)))


def _measured(column: Measuring, sample: MetricContext, candidate: ScoresToEvaluate) -> Steps[Value]:
    asked = () if column.judge is None else (column.judge,)
    try:
        found = yield from guarded(column.metric.function)(sample, candidate, *asked, **column.gauge.options)
    except JudgeError as error:  # it costs this value alone: nothing else of the sample is run again
        return Value(None, {}, str(error), status=status_of(error))
    if not isinstance(found, Value) or not (found.value is None or isinstance(found.value, Real)):
        came = f"one of a {type(found.value).__name__}" if isinstance(found, Value) else type(found).__name__
        raise ForeignError(f"{column.metric.name} has to return a Value of a number or None; it gave {came}")
    try:
        json.dumps((found.detail, dict(found.also)), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ForeignError(f"{column.metric.name}: what a value is made of has to be plain JSON: {error}") from error
    return found


def _records(task: Task, job: Job[list[Value]]) -> Iterator[Record]:
    case, labels, columns = task
    cells = [(label, column.gauge.label) for label in labels for column in columns]
    if job.error is not None:
        for label, column in cells:
            yield Record(case.name, case.group, label, column, status_of(job.error), message=str(job.error), trace=trace_of(job.error))
        return
    assert job.result is not None
    steps = len(job.result) // max(1, len(cells))
    for place, (label, column) in enumerate(cells):
        own = job.result[place * steps : (place + 1) * steps]
        yield Record(case.name, case.group, label, column, **_outcome(own))


def _outcome(values: Sequence[Value]) -> dict[str, Any]:
    """Status, means over the explained tokens, why there is none, and what it is made of."""
    steps = tuple({"value": each.value, **each.detail} for each in values)
    lacking = next((each for each in values if each.value is None), None)
    if lacking is not None:
        return {"status": "undefined" if lacking.status == OK else lacking.status, "message": lacking.reason, "steps": steps}
    mean = float(np.mean([each.value for each in values if each.value is not None]))
    also = {name: float(np.mean([each.also[name] for each in values])) for name in values[0].also}
    if not np.isfinite([mean, *also.values()]).all():
        return {"status": "nonfinite", "message": "the metric gave NaN or infinity"}
    status = next((each.status for each in values if each.status != OK), OK)
    return {"status": status, "value": mean, "steps": steps, "also": also}
