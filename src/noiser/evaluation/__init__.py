"""How faithful are methods to a model? Examples, methods and metrics in; records, tables and what they cost out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from noiser.attribution import Failure, attribute_each
from noiser.errors import NoiserError, NonFiniteError, OptionError
from noiser.evaluation.judge import Case, guarded, judged, status_of
from noiser.evaluation.plan import (
    CONTROLS,
    DEFAULT_METHODS,
    DEFAULT_METRICS,
    Chosen,
    Entrant,
    Measuring,
    as_examples,
    entrants,
    measurings,
)
from noiser.evidence import Evaluation, Example, Record
from noiser.lm.asking import Asking, Generation
from noiser.lm.question import Question
from noiser.lm.runner import LanguageModel
from noiser.lm.side_by_side import SIDE_BY_SIDE, side_by_side
from noiser.metrics.sample import Candidate
from noiser.prompts import Prompt
from noiser.registry import METHODS, Released
from noiser.seeding import generator
from noiser.summary import summarise
from noiser.types import Attribution, Cost

__all__ = ["evaluate"]
METRICS_COST = "metrics"
Result = Attribution | Failure | None


def evaluate(
    lm: LanguageModel,
    examples: Iterable[Any],
    methods: Chosen = DEFAULT_METHODS,
    metrics: Chosen = DEFAULT_METRICS,
    *,
    controls: Sequence[str] = CONTROLS,
    generate: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    on_sample: Callable[[str], None] | None = None,
) -> Evaluation:
    """How faithful are these methods to this model, on the same samples and the same masks?

    examples   prompts (text, ids, chats), `Example`s, or mappings with `prompt` and optionally `target`, `id`, `group`.
               Samples of one group (a template, a relation) are resampled together; without groups each is its own.
    methods    names, or a mapping from names to options; a name may carry options itself, so that one method can stand in
               several rows: `noiser:bound=l2+steps=5`. A mapping may also hold Attributions, one for each example.
    metrics    likewise: `soft_ns:protocol=paper`.
    controls   rows that know nothing of the model: what any method has to beat. `permuted` has the first method's scores in
               a random order; `permuted:NAME` another one's.
    generate   judge each token of the model's own continuation, so many, and take the mean.
    limit      only the first so many examples; tokens for operator=resample still come from all.
    seed       of everything drawn at random, where its own options do not say otherwise.
    on_sample  called with each example's id when it is done.

    Every example, method and metric ends as one record with a status. Raises OptionError for what does not exist or fit;
    what goes wrong with single samples is in the records. Returns an Evaluation: `print` it, `.summaries`, `.records`.
    """
    for number in (generate, limit):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise OptionError(f"generate and limit are whole numbers from 1 on; got {number!r}")
    chosen = as_examples(examples)
    rows = entrants(methods, controls, seed, len(chosen[:limit]))
    columns = measurings(metrics, seed)
    prompts = [_read(lm, example) for example in chosen]
    bench = _Bench(lm, rows, columns, prompts, seed)
    bench.check()
    work = list(zip(chosen, prompts, strict=True))[:limit]
    records: list[Record] = []
    for start in range(0, len(work), SIDE_BY_SIDE):
        for found in bench.run(work[start : start + SIDE_BY_SIDE], start, generate):
            records += found
            if on_sample is not None:
                on_sample(found[0].sample)
    contenders, gauges = tuple(row.contender for row in rows), tuple(column.gauge for column in columns)
    found = Evaluation(
        lm.name, lm.revision, seed, contenders, gauges, len(work), tuple(records), summarise(records, contenders, gauges, seed), bench.costs
    )
    assert len(records) == found.planned, f"{len(records)} records for {found.planned} planned"
    return found


def _read(lm: LanguageModel, example: Example) -> Prompt | NoiserError:
    if isinstance(example.prompt, NoiserError):
        return example.prompt
    try:
        return lm.prompt(example.prompt)
    except NoiserError as error:
        return error


class _Bench:
    """The rows and columns, run on some examples at a time."""

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Entrant],
        columns: Sequence[Measuring],
        prompts: Sequence[Prompt | NoiserError],
        seed: int,
    ) -> None:
        self.lm, self.rows, self.columns, self.prompts, self.seed = lm, rows, columns, prompts, seed
        self.costs: dict[str, Cost] = {}
        self._resamples = any(column.gauge.options.get("operator") == "resample" for column in columns)
        self._ids = sorted({prompt.input_ids: prompt for prompt in prompts if isinstance(prompt, Prompt)}.items())

    def check(self) -> None:
        """Raises OptionError where tokens of other prompts are wanted and there is only one prompt, and for Attributions of
        other prompts or of another model."""
        if self._resamples and len(self.prompts) < 2:
            raise OptionError("operator=resample takes its tokens from other prompts: give more than one")
        for row in self.rows:
            for given, prompt in zip(row.given or (), self.prompts, strict=False):
                if given.model != self.lm.name:
                    raise OptionError(f"{row.contender.label}: the Attributions given explain {given.model}, not {self.lm.name}")
                if isinstance(prompt, Prompt) and given.prompt.input_ids[: len(prompt)] != prompt.input_ids:
                    raise OptionError(f"{row.contender.label}: the Attributions given are of other prompts than the examples")

    def run(self, work: Sequence[tuple[Example, Prompt | NoiserError]], start: int, generate: int | None) -> Iterator[list[Record]]:
        """The records of each example: those of the methods' attributions, judged by every metric."""
        asked = self._questions(work, generate)
        readable = [(place, *each) for place, each in enumerate(asked) if not isinstance(each, NoiserError)]
        results = {row.contender.label: self._results(row, readable, start) for row in self.rows}
        cases, failures = [], {}
        for turn, (place, prompt, question) in enumerate(readable):
            example = work[place][0]
            own = {label: found[turn] for label, found in results.items()}
            scores, failures[place] = self._scores(example, own)
            explained = {row.contender.label: _targets(own[row.of or row.contender.label]) for row in self.rows}
            cases.append(Case(str(example.id), example.group, prompt, question, scores, explained, self._pool(prompt)))
        done = judged(self.lm, cases, self.columns)
        for place, (example, _) in enumerate(work):
            said = asked[place]
            if isinstance(said, NoiserError):
                yield [record for row in self.rows for record in self._failed(example, row.contender.label, said)]
                continue
            found, job = next(done)
            self._spend(METRICS_COST, job.cost)
            yield [*found, *failures[place]]

    def _questions(
        self, work: Sequence[tuple[Example, Prompt | NoiserError]], generate: int | None
    ) -> list[tuple[Prompt, Question] | NoiserError]:
        """What is explained of each example; the model's own continuation is generated once, for all methods."""
        prompts = [prompt for _, prompt in work if isinstance(prompt, Prompt)]
        made = iter(side_by_side(self.lm, (_continued(prompt, generate) for prompt in prompts)) if generate else ())
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

    def _results(self, row: Entrant, readable: Sequence[tuple[int, Prompt, Question]], start: int) -> list[Result]:
        if row.given is not None:
            return [row.given[start + place] for place, _, _ in readable]
        if row.method is None:
            return [None] * len(readable)
        method = replace(row.method, function=guarded(row.method.function))
        pairs = [(prompt, question) for _, prompt, question in readable]
        found = list(attribute_each(self.lm, pairs, method, row.contender.options, "return"))
        for each in found:
            if isinstance(each, Attribution):
                self._spend(row.contender.label, each.cost)
        return list(found)

    def _scores(self, example: Example, results: Mapping[str, Result]) -> tuple[dict[str, list[Candidate]], list[Record]]:
        """Every row's scores, and the records of those that have none."""
        scores: dict[str, list[Candidate]] = {}
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
        said = status_of(error), None, str(error)
        return [Record(str(example.id), example.group, label, column.gauge.label, *said) for column in self.columns]

    def _pool(self, prompt: Prompt) -> list[int]:
        """The other prompts' tokens, special ones left out; the same whatever order the examples come in."""
        others = [other for ids, other in self._ids if ids != prompt.input_ids] if self._resamples else []
        return [token for other in others for token, special in zip(other.input_ids, other.special, strict=True) if not special]

    def _spend(self, label: str, cost: Cost) -> None:
        before = self.costs.get(label, Cost(0.0, 0, 0, 0))
        self.costs[label] = Cost(
            before.seconds + cost.seconds,
            before.forward_tokens + cost.forward_tokens,
            before.backward_tokens + cost.backward_tokens,
            max(before.peak_bytes, cost.peak_bytes),
        )


def _continued(prompt: Prompt, count: int | None) -> Asking[Any]:
    assert count is not None
    return (yield Generation(prompt, count))


def _question(prompt: Prompt, asked: Mapping[str, Any]) -> tuple[Prompt, Question] | NoiserError:
    try:
        return prompt, Question(**asked)
    except NoiserError as error:
        return error


def _targets(found: Result) -> list[tuple[int, ...]]:
    return [target.token_ids for target in found.targets] if isinstance(found, Attribution) else []


def _candidates(attribution: Attribution, permuted: int | None) -> list[Candidate]:
    """The scores before each target, as the metrics take them; in a random order where a seed for that is given."""
    entry = METHODS.get(attribution.method)
    once_more: Released = "none" if attribution.options.get("variant") == "official" else entry.released if entry else "abs_l1"
    found = []
    for row, target in zip(attribution.scores, attribution.targets, strict=True):
        length = target.context or len(row)
        scores = row[:length]
        if permuted is not None:
            scores = generator(permuted, attribution.prompt.input_ids[:length], "permuted").permutation(scores)
        if not np.isfinite(scores).all():
            raise NonFiniteError(f"{attribution.method} gave scores that are NaN or infinite")
        found.append(Candidate(scores, once_more))
    return found
