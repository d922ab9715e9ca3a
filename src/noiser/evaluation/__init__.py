"""How faithful are methods to a model? Examples, methods and metrics in; records, tables and what they cost out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from noiser.errors import NoiserError, OptionError
from noiser.evaluation.runner import EvaluationRunner, Judged
from noiser.evaluation.spec import CONTROLS, DEFAULT_METHODS, DEFAULT_METRICS, Chosen, as_examples, chosen_judges, entrants, measurings
from noiser.judges.protocol import Judge, JudgeConfig
from noiser.lm.model import LanguageModel
from noiser.lm.scheduler import MAX_CONCURRENT
from noiser.results.attribution import Attribution, Cost
from noiser.results.evaluation import Evaluation
from noiser.results.records import Example, Record
from noiser.results.tables import summarise
from noiser.text.prompt import Prompt

__all__ = ["evaluate"]
METRICS_COST = "metrics"
NOTHING = Cost(0.0, 0, 0, 0)


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
    judges: Sequence[str | Judge] = (),
    judge_how: JudgeConfig | None = None,
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
    judges     whom answerability and minimum_top_p ask: `local:MODEL`, `openai:MODEL`, `llama:GGUF`, or a Judge of your own;
               the default model where there is none. With several each metric stands there once for each.
    judge_how  where an `openai:` judge is, what becomes of its replies, how many calls at a time: see `noiser.JudgeConfig`.
    on_sample  called with each example's id when it is done.

    Every example, method and metric ends as one record with a status. Raises OptionError for what does not exist or fit;
    what goes wrong with single samples is in the records. Returns an Evaluation: `print` it, `.summaries`, `.records`.
    """
    for number in (generate, limit):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise OptionError(f"generate and limit are whole numbers from 1 on; got {number!r}")
    chosen = as_examples(examples)
    rows = entrants(methods, controls, seed, len(chosen[:limit]))
    columns = measurings(metrics, seed, asked := chosen_judges(judges, metrics, judge_how or JudgeConfig()))
    prompts = [_read(lm, example) for example in chosen]
    bench = EvaluationRunner(lm, rows, columns, prompts, seed)
    bench.check()
    work = list(zip(chosen, prompts, strict=True))[:limit]
    records: list[Record] = []
    costs: dict[str, Cost] = {}
    for start in range(0, len(work), MAX_CONCURRENT):
        for found in bench.run(work[start : start + MAX_CONCURRENT], start, generate):
            records += found.records
            _add(costs, found)
            if on_sample is not None:
                on_sample(str(found.example.id))
    contenders, gauges = tuple(row.contender for row in rows), tuple(column.gauge for column in columns)
    found = Evaluation(
        lm.name, lm.revision, seed, contenders, gauges, len(work), tuple(records), summarise(records, contenders, gauges, seed), costs,
        {judge.name: dict(judge.counts) for judge in asked},
    )  # fmt: skip
    assert len(records) == found.planned, f"{len(records)} records for {found.planned} planned"
    return found


def _read(lm: LanguageModel, example: Example) -> Prompt | NoiserError:
    if isinstance(example.prompt, NoiserError):
        return example.prompt
    try:
        return lm.prompt(example.prompt)
    except NoiserError as error:
        return error


def _add(costs: dict[str, Cost], found: Judged) -> None:
    for label, result in found.results.items():
        if isinstance(result, Attribution):
            costs[label] = costs.get(label, NOTHING) + result.cost
    if found.prompt is not None:
        costs[METRICS_COST] = costs.get(METRICS_COST, NOTHING) + found.metrics
