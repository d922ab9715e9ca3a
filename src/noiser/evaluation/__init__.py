"""How faithful are methods to a model? Examples, methods and metrics in; records, tables and costs out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from noiser.errors import NoiserError
from noiser.evaluation.runner import EvaluationRunner, ExampleResult
from noiser.evaluation.spec import CONTROLS, Chosen, EvaluationSpec
from noiser.judges.protocol import Judge, JudgeConfig
from noiser.lm.model import LanguageModel, check_language_model
from noiser.lm.scheduler import MAX_CONCURRENT
from noiser.registry import DEFAULT_METHODS, DEFAULT_METRICS
from noiser.results.attribution import Attribution, Cost
from noiser.results.evaluation import Evaluation
from noiser.results.records import Example, Record
from noiser.results.tables import summarise
from noiser.text.prompt import Prompt

__all__ = ["EvaluationSpec", "evaluate", "run_evaluation"]
METRICS_COST = "metrics"
NO_COST = Cost(0.0, 0, 0, 0)


def evaluate(
    lm: LanguageModel,
    examples: Iterable[Any],
    methods: Chosen = DEFAULT_METHODS,
    metrics: Chosen = DEFAULT_METRICS,
    *,
    controls: Sequence[str] = CONTROLS,
    generate: int | None = None,
    limit: int | None = None,
    orders: int = 0,
    ladder: bool = True,
    seed: int = 0,
    judges: Sequence[str | Judge] = (),
    judge_how: JudgeConfig | None = None,
    on_sample: Callable[[str], None] | None = None,
) -> Evaluation:
    """How faithful are these methods to this model, on the same samples and the same masks?

    examples   prompts (text, ids, chats), `Example`s, or mappings with `prompt` and optionally `target`, `id`, `group`. A target
               is a word, with or without its leading space, or ids; see `noiser.lm.following.with_space`. The samples of one
               group (a template, a relation) are one cluster of the intervals. A sample without a group is a group of its own.
    methods    names, or a mapping from names to options. A name may carry options (`noiser:bound=l2+steps=5`), so one method can
               have several rows. A mapping may also hold Attributions, one for each example.
    metrics    likewise: `soft_ns:protocol=paper`.
    controls   control rows that ignore the model: any method should beat them. `permuted` shuffles the first method's scores;
               `permuted:NAME` shuffles NAME's scores.
    generate   explain each of N tokens that the model generates greedily; a sample's value is the mean over them.
    limit      evaluate only the first N examples. operator=resample still draws its tokens from all examples.
    orders     compare every value with those of N random orders of the tokens with the same scores: `win_rate` and `p_random` in
               `Record.extra`, the mean win rate in the tables. Methods without ties share the orders, so it costs N rows of a metric.
    ladder     mix the first method's scores with 25, 50, 75 and 100 % of noise, and let every metric order the five: `ladder` in
               `Record.extra` is the share of neighbours in order. A table says so if its metric cannot. It costs three rows of a metric.
    seed       the key of everything drawn at random, unless options set their own seed.
    judges     the judges that answerability and minimum_top_p ask: `local:MODEL`, `openai:MODEL`, `llama:GGUF`, or a Judge
               object. The default is a local judge with the default model. With several judges each metric has a column for each.
    judge_how  the address of an `openai:` judge, its cache and its limits: see `noiser.JudgeConfig`.
    on_sample  called with each example's id when the example is done.

    Every example, method and metric ends as one record with a status. Failures of single samples are in the records. Raises
    OptionError for arguments that do not exist or do not fit. Returns an Evaluation: `print` it, or read `.summaries` and `.records`.
    """
    check_language_model(lm)
    spec = EvaluationSpec.parse(
        examples,
        methods,
        metrics,
        controls=controls,
        generate=generate,
        limit=limit,
        orders=orders,
        ladder=ladder,
        seed=seed,
        judges=judges,
        judge_config=judge_how,
    )
    return run_evaluation(lm, spec, on_sample)


def run_evaluation(lm: LanguageModel, spec: EvaluationSpec, on_sample: Callable[[str], None] | None = None) -> Evaluation:
    """`evaluate` for a specification that is checked already. `on_sample` is called with each example's id when it is done.

    Raises OptionError for what only the model shows not to fit: Attributions of another model, or a single prompt to resample from.
    """
    prompts = [_tokenize(lm, example) for example in spec.examples]
    runner = EvaluationRunner(lm, spec.methods, spec.metrics, prompts, spec.seed, rivals=spec.rivals)
    runner.check()
    work = list(zip(spec.examples, prompts, strict=True))[: spec.limit]
    records: list[Record] = []
    costs: dict[str, Cost] = {}
    for start in range(0, len(work), MAX_CONCURRENT):
        for result in runner.run(work[start : start + MAX_CONCURRENT], start, spec.generate):
            records += result.records
            _add_costs(costs, result)
            if on_sample is not None:
                on_sample(str(result.example.id))
    methods, metrics = tuple(row.to_row() for row in spec.methods), tuple(column.to_column() for column in spec.metrics)
    evaluation = Evaluation(
        model=lm.name,
        revision=lm.revision,
        seed=spec.seed,
        methods=methods,
        metrics=metrics,
        samples=len(work),
        records=tuple(records),
        summaries=summarise(records, methods, metrics),
        costs=costs,
        judges={judge.name: dict(judge.counts) for judge in spec.judges},
    )
    assert len(records) == evaluation.planned, f"{len(records)} records for {evaluation.planned} planned"
    return evaluation


def _tokenize(lm: LanguageModel, example: Example) -> Prompt | NoiserError:
    """The example's prompt, or the reason that it cannot be read."""
    if isinstance(example.prompt, NoiserError):
        return example.prompt
    try:
        return lm.prompt(example.prompt)
    except NoiserError as error:
        return error


def _add_costs(costs: dict[str, Cost], result: ExampleResult) -> None:
    for label, attribution in result.results.items():
        if isinstance(attribution, Attribution):
            costs[label] = costs.get(label, NO_COST) + attribution.cost
    if result.prompt is not None:
        costs[METRICS_COST] = costs.get(METRICS_COST, NO_COST) + result.metrics
