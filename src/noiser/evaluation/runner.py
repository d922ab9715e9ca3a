"""All methods and metrics on some examples at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from noiser.attribution.attribute import Failure, attribute_each
from noiser.errors import NoiserError, NonFiniteError, OptionError
from noiser.evaluation.example import ExampleTask, guarded, judged, status_of, trace_of
from noiser.evaluation.spec import Entrant, Measuring
from noiser.lm.model import LanguageModel
from noiser.lm.requests import CleanRunCache, Generation, Steps
from noiser.lm.scheduler import schedule
from noiser.lm.target import Question
from noiser.metrics.sample import ScoresToEvaluate
from noiser.registry import METHODS, MethodSpec, PaperNormalization
from noiser.results.attribution import Attribution, Cost
from noiser.results.records import Example, Record
from noiser.rng import generator
from noiser.text.prompt import Prompt

Result = Attribution | Failure | None


@dataclass(frozen=True, eq=False)
class Judged:
    """What became of one example."""

    example: Example
    prompt: Prompt | None
    """None where it cannot be read."""
    results: Mapping[str, Result]
    """By the row's label: the attribution or the failure of each method that was run."""
    records: list[Record]
    metrics: Cost = field(default=Cost(0.0, 0, 0, 0))
    """What all metrics took together."""


class EvaluationRunner:
    """The rows and columns, run on some examples at a time.

    The prompts are all that tokens may be drawn from for operator=resample; a method on a prompt, and the metrics of all methods
    on it, may take `limit` seconds each.
    """

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Entrant],
        columns: Sequence[Measuring],
        prompts: Sequence[Prompt | NoiserError],
        seed: int,
        limit: float | None = None,
    ) -> None:
        self.lm, self.rows, self.columns, self.prompts, self.seed, self.limit = lm, rows, columns, prompts, seed, limit
        self._resamples = any(column.gauge.options.get("operator") == "resample" for column in columns)
        self._ids = sorted({prompt.input_ids: prompt for prompt in prompts if isinstance(prompt, Prompt)}.items())

    def check(self) -> None:
        """Raises OptionError where tokens of other prompts are wanted and there is only one prompt, and for Attributions of
        other prompts or of another model; RunError where a judge cannot be asked."""
        if self._resamples and len(self.prompts) < 2:
            raise OptionError("operator=resample takes its tokens from other prompts: give more than one")
        for row in self.rows:
            for given, prompt in zip(row.given or (), self.prompts, strict=False):
                if given.model != self.lm.name:
                    raise OptionError(f"{row.contender.label}: the Attributions given explain {given.model}, not {self.lm.name}")
                if isinstance(prompt, Prompt) and given.prompt.input_ids[: len(prompt)] != prompt.input_ids:
                    raise OptionError(f"{row.contender.label}: the Attributions given are of other prompts than the examples")
        for judge in {id(column.judge): column.judge for column in self.columns if column.judge is not None}.values():
            judge.check()

    def run(self, work: Sequence[tuple[Example, Prompt | NoiserError]], start: int, generate: int | None) -> Iterator[Judged]:
        """What became of each example: the methods' attributions, judged by every metric. `start` is the first one's place among
        all. An example's clean runs are made once for all methods and metrics."""
        asked = self._questions(work, generate)
        readable = [(place, *each, {}) for place, each in enumerate(asked) if not isinstance(each, NoiserError)]
        results = {row.contender.label: self._results(row, readable, start) for row in self.rows}
        cases, failures = [], {}
        for turn, (place, prompt, question, cleans) in enumerate(readable):
            example = work[place][0]
            own = {label: found[turn] for label, found in results.items()}
            scores, failures[place] = self._scores(example, own)
            explained = {row.contender.label: _targets(own[row.of or row.contender.label]) for row in self.rows}
            cases.append(ExampleTask(str(example.id), example.group, prompt, question, scores, explained, self._pool(prompt), cleans))
        done = judged(self.lm, cases, self.columns, self.limit)
        turns = iter(range(len(readable)))
        for place, (example, prompt) in enumerate(work):
            said = asked[place]
            if isinstance(said, NoiserError):
                yield Judged(
                    example, None, {}, [record for row in self.rows for record in self._failed(example, row.contender.label, said)]
                )
                continue
            found, job = next(done)
            turn = next(turns)
            own = {row.contender.label: results[row.contender.label][turn] for row in self.rows if row.method is not None}
            assert isinstance(prompt, Prompt)
            yield Judged(example, prompt, own, [*found, *failures[place]], job.cost)

    def _questions(
        self, work: Sequence[tuple[Example, Prompt | NoiserError]], generate: int | None
    ) -> list[tuple[Prompt, Question] | NoiserError]:
        """What is explained of each example; the model's own continuation is generated once, for all methods."""
        prompts = [prompt for _, prompt in work if isinstance(prompt, Prompt)]
        made = iter(schedule(self.lm, (_continued(prompt, generate) for prompt in prompts)) if generate else ())
        found: list[tuple[Prompt, Question] | NoiserError] = []
        for example, prompt in work:
            if isinstance(prompt, NoiserError):
                found.append(prompt)
            elif generate is None:
                found.append(_question(prompt, {"target": example.target}))
            else:
                job = next(made)
                found.append(job.error or _question(prompt, {"target": example.target, "continuation": job.result}))
        return found

    def _results(self, row: Entrant, readable: Sequence[tuple[int, Prompt, Question, CleanRunCache]], start: int) -> list[Result]:
        if row.given is not None:
            return [row.given[start + place] for place, *_ in readable]
        if row.method is None:
            return [None] * len(readable)
        method = replace(row.method, function=guarded(row.method.function))
        tasks = [(prompt, question, cleans) for _, prompt, question, cleans in readable]
        spec = MethodSpec(row.contender.label, method, row.contender.options)
        return list(attribute_each(self.lm, tasks, spec, "return", self.limit))

    def _scores(self, example: Example, results: Mapping[str, Result]) -> tuple[dict[str, list[ScoresToEvaluate]], list[Record]]:
        """Every row's scores, and the records of those that have none."""
        scores: dict[str, list[ScoresToEvaluate]] = {}
        failures: list[Record] = []
        for row in self.rows:
            label = row.contender.label
            found = results[row.of or label]
            try:
                if isinstance(found, Failure):
                    raise found.error
                assert found is not None
                scores[label] = _candidates(found, self.seed if row.of else None)
            except NoiserError as error:
                failures += self._failed(example, label, error)
        return scores, failures

    def _failed(self, example: Example, label: str, error: NoiserError) -> list[Record]:
        said = status_of(error), None, str(error), (), trace_of(error)
        return [Record(str(example.id), example.group, label, column.gauge.label, *said) for column in self.columns]

    def _pool(self, prompt: Prompt) -> list[int]:
        """The other prompts' tokens, special ones left out; the same whatever order the examples come in."""
        others = [other for ids, other in self._ids if ids != prompt.input_ids] if self._resamples else []
        return [token for other in others for token, special in zip(other.input_ids, other.special, strict=True) if not special]


def _continued(prompt: Prompt, count: int | None) -> Steps[Any]:
    assert count is not None
    return (yield Generation(prompt, count))


def _question(prompt: Prompt, asked: Mapping[str, Any]) -> tuple[Prompt, Question] | NoiserError:
    try:
        return prompt, Question(**asked)
    except NoiserError as error:
        return error


def _targets(found: Result) -> list[tuple[int, ...]]:
    return [target.token_ids for target in found.targets] if isinstance(found, Attribution) else []


def _candidates(attribution: Attribution, permuted: int | None) -> list[ScoresToEvaluate]:
    """The scores before each target, as the metrics take them; in a random order where a seed for that is given."""
    entry = METHODS.get(attribution.method)
    normalization: PaperNormalization = entry.paper_normalization if entry else "abs_l1"
    if attribution.options.get("variant") == "official":  # the method has normalised them already
        normalization = "none"
    found = []
    for row, target in zip(attribution.scores, attribution.targets, strict=True):
        length = target.context or len(row)
        scores = row[:length]
        if permuted is not None:
            scores = generator(permuted, attribution.prompt.input_ids[:length], "permuted").permutation(scores)
        if not np.isfinite(scores).all():
            raise NonFiniteError(f"{attribution.method} gave scores that are NaN or infinite")
        found.append(ScoresToEvaluate(scores, normalization))
    return found
