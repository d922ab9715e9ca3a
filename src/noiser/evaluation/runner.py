"""Run all methods and all metrics on some examples at a time. No row runs twice, and each failure has its own record."""

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from noiser.attribution.explain import Failure, attribute_each
from noiser.errors import (
    DeviceMemoryError,
    ForeignError,
    JudgeError,
    ModelFailedError,
    NoiserError,
    NonFiniteError,
    OptionError,
    TimeLimitError,
)
from noiser.evaluation.rivals import NO_RIVALS, Rivals, permuted_scores
from noiser.evaluation.spec import EvaluatedMethod, EvaluatedMetric
from noiser.lm.following import with_space
from noiser.lm.model import LanguageModel
from noiser.lm.requests import CleanRunCache, Generation, Steps, cached, deduplicate, gather
from noiser.lm.scheduler import MAX_CONCURRENT, Job, isolate_errors, schedule
from noiser.lm.target import Question, resolve_target
from noiser.metrics.sample import MetricContext, ScoresToEvaluate, Value
from noiser.registry import METHODS, PaperNormalization
from noiser.results.attribution import Attribution, Cost
from noiser.results.card import check_comparable
from noiser.results.records import OK, Example, Record
from noiser.text.prompt import Prompt

MAX_RANDOM_BYTES = 1 << 30
"""The most bytes of random draws for masks in memory at a time."""
Result = Attribution | Failure | None


@dataclass(frozen=True, eq=False)
class ExampleResult:
    """The outcome of one example."""

    example: Example
    prompt: Prompt | None
    """None if the prompt cannot be read."""
    results: dict[str, Result]
    """The attribution or the failure of each method that runs, by the row's label."""
    records: list[Record]
    metrics: Cost = field(default=Cost(0.0, 0, 0, 0))
    """The cost of all metrics together."""


@dataclass(eq=False)
class ExampleTask:
    """One example, with what the methods and the metrics need and what they give."""

    example: Example
    index: int
    """Its position among all examples."""
    prompt: Prompt
    question: Question
    pool: Sequence[int]
    """Ids of the tokens of the other examples' prompts."""
    cleans: CleanRunCache = field(default_factory=dict)
    """The clean runs of the example. All methods and metrics share them."""
    results: dict[str, Result] = field(default_factory=dict)
    """By the row's label. None for a row that permutes the scores of another."""
    scores: dict[str, list[ScoresToEvaluate]] = field(default_factory=dict)
    """By the row's label: one entry for each explained token. Rows that fail are missing."""
    explained: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    """By the row's label: the token ids of each target that the scores explain."""


class EvaluationRunner:
    """Runs the rows and columns of a table on some examples at a time.

    operator=resample draws its tokens from `prompts`. One method may take `limit` seconds on one prompt. All metrics of all methods
    together may also take `limit` seconds on one prompt. Every value is compared with its `rivals`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[EvaluatedMethod],
        columns: Sequence[EvaluatedMetric],
        prompts: Sequence[Prompt | NoiserError],
        seed: int,
        limit: float | None = None,
        rivals: Rivals = NO_RIVALS,
    ) -> None:
        self.lm, self.rows, self.columns, self.prompts, self.seed, self.limit = lm, rows, columns, prompts, seed, limit
        self.rivals = rivals
        self._resamples = any(column.options.get("operator") == "resample" for column in columns)
        self._distinct = sorted({prompt.input_ids: prompt for prompt in prompts if isinstance(prompt, Prompt)}.items())

    def check(self) -> None:
        """Checks what needs the model or a judge.

        Raises OptionError if operator=resample has a single prompt to draw from, and for Attributions of other prompts or of
        another model, or that explain different things. Raises RunError if a judge does not answer.
        """
        if self._resamples and len(self.prompts) < 2:
            raise OptionError("operator=resample takes its tokens from other prompts: give more than one")
        for row in self.rows:
            for attribution, prompt in zip(row.attributions or (), self.prompts, strict=False):
                if attribution.model != self.lm.name:
                    raise OptionError(f"{row.label}: its Attributions explain {attribution.model}, not {self.lm.name}")
                if isinstance(prompt, Prompt) and attribution.prompt.input_ids[: len(prompt)] != prompt.input_ids:
                    raise OptionError(f"{row.label}: its Attributions are of other prompts than the examples")
        given = [row for row in self.rows if row.attributions is not None]
        for results in zip(*(row.attributions or () for row in given), strict=True):
            check_comparable(results, [row.label for row in given])
        for judge in {id(column.judge_client): column.judge_client for column in self.columns}.values():
            if judge is not None:
                judge.check()

    def run(self, work: Sequence[tuple[Example, Prompt | NoiserError]], start: int, generate: int | None) -> Iterator[ExampleResult]:
        """Runs every method and every metric on each example. `start` is the position of the first one among all examples."""
        tasks = self._tasks(work, start, generate)
        readable = [task for task in tasks if isinstance(task, ExampleTask)]
        for row in self.rows:
            for task, result in zip(readable, self._run_method(row, readable), strict=True):
                task.results[row.label] = result
        failures = iter([self._set_scores(task) for task in readable])
        measured = measure_examples(self.lm, readable, self.columns, self.limit, self.rivals)
        for (example, _), task in zip(work, tasks, strict=True):
            if isinstance(task, NoiserError):
                yield ExampleResult(
                    example, None, {}, [record for row in self.rows for record in failed_records(example, row.label, self.columns, task)]
                )
                continue
            records, job = next(measured)
            results = {row.label: task.results[row.label] for row in self.rows if row.spec is not None}
            yield ExampleResult(example, task.prompt, results, [*records, *next(failures)], job.cost)

    def _tasks(
        self, work: Sequence[tuple[Example, Prompt | NoiserError]], start: int, generate: int | None
    ) -> list[ExampleTask | NoiserError]:
        """One task for each example, or the error of an example that has no task. All methods share one generated continuation."""
        prompts = [prompt for _, prompt in work if isinstance(prompt, Prompt)]
        generations = iter(schedule(self.lm, (_generate(prompt, generate) for prompt in prompts)) if generate else ())
        tasks: list[ExampleTask | NoiserError] = []
        for index, (example, prompt) in enumerate(work, start):
            job = next(generations) if generate and isinstance(prompt, Prompt) else None
            try:
                if not isinstance(prompt, Prompt):
                    raise prompt
                if job is not None and job.error is not None:
                    raise job.error
                target = with_space(prompt, example.target) if isinstance(example.target, str) else example.target
                question = Question(target, continuation=None if job is None else job.result)
                tasks.append(ExampleTask(example, index, prompt, question, self._pool(prompt)))
            except NoiserError as error:
                tasks.append(error)
        return tasks

    def _run_method(self, row: EvaluatedMethod, tasks: Sequence[ExampleTask]) -> list[Result]:
        if row.attributions is not None:
            return [row.attributions[task.index] for task in tasks]
        if row.spec is None:
            return [None] * len(tasks)
        inputs = [(task.prompt, task.question, task.cleans) for task in tasks]
        return list(attribute_each(self.lm, inputs, row.spec, "return", self.limit))

    def _set_scores(self, task: ExampleTask) -> list[Record]:
        """Sets the task's scores from its results. Returns the records of the rows without scores."""
        failures: list[Record] = []
        for row in self.rows:
            result = task.results[row.permutes or row.label]
            task.explained[row.label] = [target.token_ids for target in result.targets] if isinstance(result, Attribution) else []
            try:
                if isinstance(result, Failure):
                    raise result.error
                assert result is not None
                task.scores[row.label] = _scores_to_evaluate(result, self.seed if row.permutes else None)
            except NoiserError as error:
                failures += failed_records(task.example, row.label, self.columns, error)
        return failures

    def _pool(self, prompt: Prompt) -> list[int]:
        """The tokens of the other prompts, without special ones. It does not depend on the order of the examples."""
        others = [other for ids, other in self._distinct if ids != prompt.input_ids] if self._resamples else []
        return [token for other in others for token, special in zip(other.input_ids, other.special, strict=True) if not special]


def measure_examples(
    lm: LanguageModel,
    tasks: Sequence[ExampleTask],
    columns: Sequence[EvaluatedMetric],
    limit: float | None = None,
    rivals: Rivals = NO_RIVALS,
) -> Iterator[tuple[list[Record], Job]]:
    """The records of each example, in order, and the job that makes them. A job that takes more than `limit` seconds fails.

    If a job fails, its methods and metrics run again one by one, so that each failure has its own record. A job that exceeds its
    time limit does not run again.
    """
    tables = [[(label, column) for label in task.scores for column in columns] for task in tasks]
    work = (_measure(lm, task, cells, rivals) for task, cells in zip(tasks, tables, strict=True))
    jobs = schedule(lm, work, _concurrent_examples(lm, tasks, columns), limit)
    for task, cells, job in zip(tasks, tables, jobs, strict=True):
        if job.error is None or isinstance(job.error, TimeLimitError):
            yield list(_records(task, cells, job)), job
            continue
        retries = list(schedule(lm, (_measure(lm, task, [cell], rivals) for cell in cells), limit=limit))
        for retry in retries:
            job.seconds += retry.seconds
            job.forward_tokens += retry.forward_tokens
        yield [record for cell, retry in zip(cells, retries, strict=True) for record in _records(task, [cell], retry)], job


Cells = Sequence[tuple[str, EvaluatedMetric]]
"""Cells of one example's table: the label of the row, and the column."""


def _concurrent_examples(lm: LanguageModel, tasks: Sequence[ExampleTask], columns: Sequence[EvaluatedMetric]) -> int:
    """How many examples run at a time, so that their masks fit into MAX_RANDOM_BYTES. At least one."""
    draws = {(column.options.get("masks", 0), column.options.get("seed", 0)) for column in columns}
    masks = sum(count for count, _ in draws)
    width = lm.width
    tokens = max((sum(len(step.scores) for step in next(iter(task.scores.values()), ())) for task in tasks), default=1)
    return max(1, min(MAX_CONCURRENT, MAX_RANDOM_BYTES // max(1, 4 * masks * width * tokens)))


def _measure(lm: LanguageModel, task: ExampleTask, cells: Cells, rivals: Rivals) -> Steps[list[list[Value]]]:
    """The values of each cell, one for each explained token."""
    resolved = yield from cached(resolve_target(lm.tokens, task.prompt, task.question, None), task.cleans, None)
    contexts = [MetricContext(lm, clean, objective, task.pool) for clean, objective in resolved]
    for label in dict.fromkeys(label for label, _ in cells):
        if task.explained[label] != [objective.target.token_ids for _, objective in resolved]:
            raise OptionError(f"{label}: the scores explain other tokens than the example asks for")
    parts = [
        _with_rivals(label, column, context, candidate, rivals)
        for label, column in cells
        for context, candidate in zip(contexts, task.scores[label], strict=True)
    ]
    values = yield from deduplicate(gather(parts))
    steps = len(contexts)
    return [values[start : start + steps] for start in range(0, len(values), steps)]


def _with_rivals(label: str, column: EvaluatedMetric, context: MetricContext, candidate: ScoresToEvaluate, rivals: Rivals) -> Steps[Value]:
    if column.judge_client is not None:  # each question to a judge costs money
        return (yield from _measure_one(column, context, candidate))
    return (yield from rivals.measure(label, column.better, candidate, context.ids, lambda each: _measure_one(column, context, each)))


def _measure_one(column: EvaluatedMetric, context: MetricContext, candidate: ScoresToEvaluate) -> Steps[Value]:
    judges = () if column.judge_client is None else (column.judge_client,)
    try:
        value = yield from isolate_errors(column.spec.metric.function)(context, candidate, *judges, **column.options)
    except JudgeError as error:  # only this value is lost: the rest of the example does not run again
        return Value(None, {}, str(error), status=status_of(error))
    if not isinstance(value, Value) or not (value.value is None or isinstance(value.value, Real)):
        actual = f"one of a {type(value.value).__name__}" if isinstance(value, Value) else type(value).__name__
        raise ForeignError(f"{column.spec.name} must return a Value of a number or None; it returned {actual}")
    if not isinstance(value.detail, Mapping) or not isinstance(value.extra, Mapping):
        raise ForeignError(f"{column.spec.name}: the details of a Value must be by name; it returned {value.detail!r:.80}")
    try:
        json.dumps((value.detail, dict(value.extra)), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ForeignError(f"{column.spec.name}: the details of a Value must be plain JSON: {error}") from error
    return value


def _records(task: ExampleTask, cells: Cells, job: Job[list[list[Value]]]) -> Iterator[Record]:
    name, group = str(task.example.id), task.example.group
    if job.error is not None:
        for label, column in cells:
            yield Record(name, group, label, column.label, status_of(job.error), message=str(job.error), trace=trace_of(job.error))
        return
    assert job.result is not None
    for (label, column), values in zip(cells, job.result, strict=True):
        yield Record(name, group, label, column.label, **_outcome(values))


def _outcome(values: Sequence[Value]) -> dict[str, Any]:
    """The status, the means over the explained tokens and the details of a record; the reason if there is no value."""
    steps = tuple({"value": value.value, **value.detail} for value in values)
    missing = next((value for value in values if value.value is None), None)
    if missing is not None:
        return {"status": "undefined" if missing.status == OK else missing.status, "message": missing.reason, "steps": steps}
    mean = float(np.mean([value.value for value in values if value.value is not None]))
    extra = {name: float(np.mean([value.extra[name] for value in values])) for name in values[0].extra}
    if not np.isfinite([mean, *extra.values()]).all():
        return {"status": "nonfinite", "message": "the metric gave NaN or infinity"}
    status = next((value.status for value in values if value.status != OK), OK)
    return {"status": status, "value": mean, "steps": steps, "extra": extra}


def failed_records(example: Example, label: str, columns: Sequence[EvaluatedMetric], error: NoiserError) -> list[Record]:
    """The records of one row that has no scores because of this error."""
    return [
        Record(str(example.id), example.group, label, column.label, status_of(error), message=str(error), trace=trace_of(error))
        for column in columns
    ]


def status_of(error: NoiserError) -> str:
    """The status of a record that fails with this error."""
    if isinstance(error, NonFiniteError):
        return "nonfinite"
    if isinstance(error, DeviceMemoryError):
        return "oom"
    if isinstance(error, TimeLimitError):
        return "timeout"
    cause = error.__cause__ if isinstance(error, ForeignError | ModelFailedError) else None
    return f"error({type(cause or error).__name__})"


def trace_of(error: NoiserError) -> str:
    """The traceback of an exception of a method, a metric or the model. Empty for noiser's own errors."""
    is_foreign = isinstance(error, ForeignError | ModelFailedError)
    return "".join(traceback.format_exception(error.__cause__)) if is_foreign and error.__cause__ else ""


def _generate(prompt: Prompt, count: int | None) -> Steps[Any]:
    assert count is not None
    return (yield Generation(prompt, count))


def _scores_to_evaluate(attribution: Attribution, permute_seed: int | None) -> list[ScoresToEvaluate]:
    """The scores of the tokens before each target, for the metrics. With a seed the scores are permuted at random."""
    method = METHODS.get(attribution.method)
    normalization: PaperNormalization = method.paper_normalization if method else "abs_l1"
    if attribution.options.get("variant") == "official":  # the method normalises them already
        normalization = "none"
    rows = []
    for row, target in zip(attribution.scores, attribution.targets, strict=True):
        length = target.context or len(row)
        scores = row[:length]
        if permute_seed is not None:
            scores = permuted_scores(scores, attribution.prompt.input_ids, permute_seed)
        if not np.isfinite(scores).all():
            raise NonFiniteError(f"{attribution.method} gave scores that are NaN or infinite")
        rows.append(ScoresToEvaluate(scores, normalization))
    return rows
