"""What to evaluate: examples, methods, controls, metrics and judges, all checked before the model runs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import noiser.methods
import noiser.metrics
from noiser.errors import OptionError
from noiser.evaluation.rivals import NO_RIVALS, Rivals
from noiser.judges.protocol import LOCAL, Judge, JudgeConfig
from noiser.registry import DEFAULT_METHODS, DEFAULT_METRICS, PERMUTED, MethodSpec, MetricSpec, by_label, check_distinct, read_label
from noiser.results.attribution import Attribution
from noiser.results.records import Example, MethodRow, MetricColumn

CONTROLS = ("random", "uniform", "constant", "recency", "permuted")
Chosen = Sequence[Any] | Mapping[str, Any]
"""Labels or parsed specifications, or a mapping from labels to options. A label may carry options: `noiser:bound=l2+steps=5`."""


@dataclass(frozen=True, eq=False)
class EvaluatedMethod(MethodRow):
    """A row of the table with the source of its scores: a method, another row, or Attributions."""

    spec: MethodSpec | None = None
    """The method to run. None if the scores come from another row, or from Attributions."""
    permutes: str = ""
    """The label of the row whose scores are permuted."""
    attributions: Sequence[Attribution] | None = None
    """Attributions that the caller gave, one for each example."""

    def to_row(self) -> MethodRow:
        """What tables need of it."""
        return MethodRow(self.label, self.method, self.options, self.control)


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluatedMetric(MetricColumn):
    """A column of the table with the metric that computes it, and the judge that the metric asks."""

    spec: MetricSpec
    judge_client: Judge | None = None
    """The judge called `judge`. None if the metric asks no judge."""

    def to_column(self) -> MetricColumn:
        """What tables need of it."""
        return MetricColumn(self.label, self.metric, self.options, self.better, self.relative, self.judge)


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationSpec:
    """Everything that an evaluation needs besides the model, checked once. `noiser.evaluation.run_evaluation` takes it."""

    examples: tuple[Example, ...]
    """All examples. operator=resample draws its tokens from all of them, whatever the limit is."""
    methods: tuple[EvaluatedMethod, ...]
    metrics: tuple[EvaluatedMetric, ...]
    judges: tuple[Judge, ...] = ()
    """The judges that the metrics ask."""
    generate: int | None = None
    """How many generated tokens are explained. None: the next token only."""
    limit: int | None = None
    """Only the first `limit` examples are evaluated."""
    rivals: Rivals = NO_RIVALS
    """The random orders and the ladder that every value is compared with."""
    seed: int = 0

    @classmethod
    def parse(
        cls,
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
        judge_config: JudgeConfig | None = None,
    ) -> "EvaluationSpec":
        """From the arguments of `noiser.evaluate`. No model is loaded and no judge is called.

        Raises OptionError for anything that does not exist or does not fit.
        """
        for name, number in (("generate", generate), ("limit", limit)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise OptionError(f"{name} must be a whole number, 1 or more; got {number!r}")
        if not isinstance(orders, int) or orders < 0:
            raise OptionError(f"orders must be a number of random orders, 0 or more; got {orders!r}")
        all_examples = as_examples(examples)
        clients = select_judges(judges, metrics, judge_config or JudgeConfig())
        rows = method_rows(methods, controls, seed, len(all_examples[:limit]))
        _check_units(rows)
        first = next((row.label for row in rows if not row.control), "")
        return cls(
            examples=tuple(all_examples),
            methods=tuple(rows),
            metrics=tuple(metric_columns(metrics, seed, clients)),
            judges=tuple(clients),
            generate=generate,
            limit=limit,
            rivals=Rivals(orders, first if ladder else "", seed),
            seed=seed,
        )


def method_rows(methods: Chosen, controls: Sequence[str], seed: int, examples: int) -> list[EvaluatedMethod]:
    """The methods, then the controls that are not among them. `examples` is how many Attributions a row may bring, 0 for none.

    Raises OptionError for what does not exist or does not fit, and if a row occurs twice.
    """
    selection = by_label(methods, "methods")
    rows = [_method_row(label, options, seed, examples) for label, options in selection.items()]
    check_distinct(row.spec for row in rows if row.spec is not None)
    for label in by_label(controls, "controls", empty=True):
        if label.split(":")[0] == PERMUTED:
            rows.append(_permuted_row(label, list(selection)))
        elif label not in selection:
            rows.append(_method_row(label, {}, seed, examples, control=True))
    twice = sorted(label for label, count in Counter(row.label for row in rows).items() if count > 1)
    if twice:
        raise OptionError(f"each row once; {', '.join(twice)} came twice")
    return rows


def metric_columns(metrics: Chosen, seed: int, judges: Sequence[Judge] = (), *, empty: bool = False) -> list[EvaluatedMetric]:
    """One column for each metric; one for each judge if the metric asks a judge.

    Raises OptionError for what does not exist or does not fit, and for no metrics unless `empty` is True.
    """
    columns = []
    for spec in noiser.metrics.parse_all(metrics, seed=seed, empty=empty):
        for judge in judges if spec.metric.judged else (None,):
            label = spec.label if judge is None or len(judges) == 1 else spec.label.replace(spec.name, f"{spec.name}[{judge.name}]", 1)
            columns.append(
                EvaluatedMetric(
                    label=label,
                    metric=spec.name,
                    options=spec.options,
                    better=spec.metric.better,
                    relative=spec.metric.relative,
                    judge="" if judge is None else judge.name,
                    spec=spec,
                    judge_client=judge,
                )
            )
    return columns


def asks_judge(metrics: Chosen) -> bool:
    """Whether any of the metrics asks a judge. Raises OptionError for a metric that does not exist."""
    return any(noiser.metrics.find_metric(read_label(label)[0]).judged for label in by_label(metrics, "metrics", empty=True))


def select_judges(
    judges: Sequence[str | Judge], metrics: Chosen, config: JudgeConfig, urls: Mapping[str, str] | None = None
) -> list[Judge]:
    """The judges that the metrics ask, each once: the given ones, or the default judge. No model is loaded and no judge is called.

    `urls` are the addresses of single judges, by name. Raises OptionError for judges without a metric that asks them, for a judge
    that does not exist or occurs twice, and for an address without a judge.
    """
    if not asks_judge(metrics):
        if judges:
            raise OptionError(f"none of {', '.join(by_label(metrics, 'metrics'))} asks a judge: leave the judges out, or add answerability")
        return []
    names = judges or (LOCAL,)
    remote = [judge for judge in names if isinstance(judge, str) and judge.startswith("openai:")]
    if config.url is not None and not remote:
        raise OptionError(f"an address is for an openai: judge; the judges are {', '.join(str(judge) for judge in names)}")
    opened = []
    for judge in names:
        url = (urls or {}).get(str(judge), config.url if judge in remote else None)
        opened.append(_open_judge(judge, replace(config, url=url)) if isinstance(judge, str) else judge)
    opened_names = [judge.name for judge in opened]
    if len(set(opened_names)) < len(opened_names):
        raise OptionError(f"judges: give each once; got {', '.join(opened_names)}")
    return opened


def as_examples(examples: Iterable[Any]) -> list[Example]:
    """Examples from prompts of any form, from mappings with `prompt` and other fields of an Example, or from Examples.

    An example without an id is named by its position. Raises OptionError for an unknown field, for an id that occurs twice, and
    for no examples.
    """
    if isinstance(examples, str | Mapping | Example):
        raise OptionError("examples must be a list of prompts, of Examples, or of mappings with a prompt")
    parsed = [_example(example) for example in examples]
    if not parsed:
        raise OptionError("there are no examples: give at least one prompt")
    ids = [_printable(example.id) for example in parsed if example.id is not None]
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise OptionError(f"each example needs an id of its own; {', '.join(sorted(twice)[:3])} came twice")
    return [
        replace(
            example,
            id=_printable(example.id) if example.id is not None else unique_name(str(index), ids),
            group=_printable(example.group) if example.group is not None else None,
        )
        for index, example in enumerate(parsed)
    ]


def unique_name(name: str, taken: Sequence[str]) -> str:
    """The name, with as many primes behind it as it needs to differ from those that are taken."""
    while name in taken:
        name += "'"
    return name


def _method_row(label: str, options: Any, seed: int, examples: int, *, control: bool = False) -> EvaluatedMethod:
    if isinstance(options, list | tuple):
        _check_attributions(label, options, examples)
        first = options[0]
        return EvaluatedMethod(label, first.method, dict(first.options), control, attributions=options)
    if isinstance(options, MethodSpec):
        spec = options
    elif options is None or isinstance(options, Mapping):
        spec = noiser.methods.parse(label, options, seed=seed)
    else:
        raise OptionError(f"{label}: wanted its options by name, or a list of Attributions; got {type(options).__name__}")
    return EvaluatedMethod(label, spec.name, spec.options, control or spec.method.family == "control", spec)


def _check_units(rows: Sequence[EvaluatedMethod]) -> None:
    """Raises OptionError if methods score different units: their cards would differ in what is explained."""
    units = {row.label: row.options.get("unit", "token") for row in rows if not row.control}
    if len(set(units.values())) > 1:
        features = "\n".join(f"  features of {label}: each {unit}" for label, unit in units.items())
        raise OptionError(f"the methods explain by different units, so no table can compare them; evaluate them apart:\n{features}")


def _check_attributions(label: str, attributions: Sequence[Any], examples: int) -> None:
    wrong = next((type(item).__name__ for item in attributions if not isinstance(item, Attribution)), None)
    if examples and len(attributions) == examples and not wrong:
        return
    wanted = f"wanted {examples} Attributions, one for each example" if examples else "only options fit here, not Attributions"
    raise OptionError(f"{label}: {wanted}; got {len(attributions)}" + (f", a {wrong} among them" if wrong else ""))


def _permuted_row(label: str, methods: Sequence[str]) -> EvaluatedMethod:
    permutes = label.partition(":")[2] or methods[0]
    if permutes not in methods:
        raise OptionError(f"{label} permutes the scores of {permutes!r}, which is not among the methods")
    return EvaluatedMethod(f"{PERMUTED}:{permutes}", PERMUTED, {}, True, permutes=permutes)


def _open_judge(name: str, config: JudgeConfig) -> Judge:
    from noiser.judges.factory import open_judge

    return open_judge(name, config)


def _example(value: Any) -> Example:
    if isinstance(value, Example):
        return value
    if not isinstance(value, Mapping):
        return Example(value)
    if "prompt" not in value:
        raise OptionError(f"an example needs a prompt; got {', '.join(map(str, value))}")
    known = {field.name for field in fields(Example)}
    unknown = sorted(set(value) - known)
    if unknown:
        raise OptionError(f"an example has {', '.join(sorted(known))}; got {', '.join(map(str, unknown))}")
    return Example(**value)


def _printable(name: Any) -> str:
    """As text that can be encoded: lone surrogates become escapes."""
    return str(name).encode("utf-8", "backslashreplace").decode()
