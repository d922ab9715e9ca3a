"""Checks of metrics: does a metric put worse scores below better ones, on the given model and on models built by hand?"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

import noiser.methods
import noiser.metrics
from noiser.attribution.attribute import attribute, attribute_many
from noiser.errors import NoiserError, OptionError
from noiser.evaluation import evaluate
from noiser.evaluation.rivals import LADDER, in_order, mixed
from noiser.evaluation.sanity_models import CIRCUITS, KnownAnswer, known_answers
from noiser.lm.model import LanguageModel, check_language_model
from noiser.registry import MethodSpec, MetricSpec, Selection
from noiser.results.attribution import Attribution
from noiser.results.records import Number, Record
from noiser.results.sanity import MetricCheckup, MetricVerdict
from noiser.results.scores import auroc
from noiser.results.statistics import ClusterJackknife
from noiser.results.tables import number
from noiser.rng import generator

DEFAULT_METRICS = (
    "soft_ns", "soft_nc", "aopc", "aopc:operator=delete", "aopc:operator=resample+draws=2", "aopc:operator=infill+draws=2",
)  # fmt: skip
DEFAULT_METHODS = ("occlusion", "noiser", "noiser:bound=rms", "integrated_gradients", "recency", "random")
TRIES = 8
"""Prompts on each model built by hand."""


def check_metrics(
    lm: LanguageModel,
    metrics: Selection[MetricSpec] = DEFAULT_METRICS,
    methods: Selection[MethodSpec] = DEFAULT_METHODS,
    *,
    prompts: Sequence[Any] | None = None,
    draws: int = 1,
    seed: int = 0,
    on_metric: Callable[[str], None] | None = None,
) -> MetricCheckup:
    """Do these metrics deserve belief, on these prompts and on models whose answer is known?

    Ladder: the first method's scores are mixed with a random permutation of themselves, at 0, 25, 50, 75 and 100 %. A metric that
    measures anything puts less noise above more. `ladder` is how often it does so with two neighbours, a tie counting half: 0.5 is
    chance. `ends` is the same for 0 and 100 %.

    Known answers: on models built by hand the tokens that decide are known. A metric that deserves belief prefers them to as many
    others, and a method gives them higher scores (AUROC).

    metrics    labels, as for `evaluate`. A metric that asks a judge is refused.
    methods    methods whose scores are compared with the known answers. The first one's scores make the ladder.
    prompts    prompts for the ladder. The default is 16 prompts of `known-mini`. With operator=resample at least two.
    draws      random permutations for each prompt.
    on_metric  called with each metric's label when its checks are done.

    Raises OptionError for arguments that do not exist or do not fit. Returns a MetricCheckup: `print` it, or read `.verdicts`.
    """
    check_language_model(lm)
    columns, rows = noiser.metrics.parse_all(metrics, seed=seed), noiser.methods.parse_all(methods, seed=seed)
    judged = [column.label for column in columns if column.metric.judged]
    if judged:
        raise OptionError(f"{judged[0]} asks a judge: only metrics of the model itself are checked")
    texts = default_prompts() if prompts is None else list(prompts)
    ladder = _Ladder(lm, rows[0], texts, draws, seed)
    known = {name: list(known_answers(name, TRIES, seed)) for name in CIRCUITS}
    verdicts = []
    for column in columns:
        verdicts.append(_verdict(column, ladder, known, seed))
        if on_metric is not None:
            on_metric(column.label)
    return MetricCheckup(
        model=lm.name,
        revision=lm.revision,
        ladder=rows[0].label,
        prompts=len(texts),
        verdicts=tuple(verdicts),
        circuits={name: sentence for name, (sentence, _) in CIRCUITS.items()},
        aurocs={row.label: {name: _auroc(row, answers) for name, answers in known.items()} for row in rows},
    )


def default_prompts() -> list[str]:
    """Prompts of `known-mini`, every sixth."""
    from noiser.data.sets import read

    return [str(row.prompt) for row in read("known-mini").rows[::6]]


class _Ladder:
    """The same scores with more and more noise in them, for several prompts."""

    def __init__(self, lm: LanguageModel, method: MethodSpec, prompts: Sequence[Any], draws: int, seed: int) -> None:
        found = attribute_many(lm, prompts, method, errors="return")
        self.lm, self.seed = lm, seed
        self.attributions = [each for each in found if isinstance(each, Attribution)]
        if not self.attributions:
            raise OptionError(f"{method.label} explains none of the prompts, so there are no scores to mix with noise")
        self.rows = [(share, draw) for draw in range(draws) for share in LADDER if share or not draw]

    def values(self, metric: MetricSpec) -> tuple[Float[np.ndarray, "samples draws rungs"], list[Record]]:
        """The metric on every rung, higher is better, of the prompts that have all values; and the records."""
        methods = {f"{share} {draw}": [self._mixed(each, share, draw) for each in self.attributions] for share, draw in self.rows}
        prompts = [each.prompt for each in self.attributions]
        found = evaluate(self.lm, prompts, methods, [metric], controls=(), ladder=False, seed=self.seed)
        sign = 1.0 if metric.metric.better == "higher" else -1.0
        values = {(record.sample, record.method): record.value for record in found.records}
        draws = max(draw for _, draw in self.rows) + 1
        table = np.array(
            [
                [[values[str(sample), f"{share} {draw if share else 0}"] for share in LADDER] for draw in range(draws)]
                for sample in range(len(prompts))
            ],
            dtype=np.float64,
        )
        return sign * table[np.isfinite(table).all((1, 2))], list(found.records)

    def _mixed(self, attribution: Attribution, share: int, draw: int) -> Attribution:
        scores = attribution.scores
        order = generator(self.seed, attribution.prompt.input_ids, "ladder", draw).permutation(scores.shape[1])
        return replace(attribution, scores=mixed(scores, scores[:, order], share), stderr=None, dof=None)


def _verdict(metric: MetricSpec, ladder: _Ladder, known: dict[str, list[KnownAnswer]], seed: int) -> MetricVerdict:
    values, records = ladder.values(metric)
    reason = next((record.message for record in records if record.value is None), "")
    if not len(values):
        empty = Number(None)
        return MetricVerdict(metric.label, empty, empty, 0, dict.fromkeys(known), f"no value: {reason}")
    neighbours = _rate(in_order(values).mean((1, 2)))
    ends = _rate(in_order(values[..., [0, -1]]).mean((1, 2)))
    preferred = {name: _preference(metric, answers, seed) for name, answers in known.items()}
    return MetricVerdict(metric.label, neighbours, ends, len(values), preferred, reason)


def _rate(values: Float[np.ndarray, " samples"]) -> Number:
    """The mean over the prompts, with its interval."""
    jackknife = ClusterJackknife([str(sample) for sample in range(len(values))])
    return number(jackknife, float(values.mean()), jackknife.means(values), (0.0, 1.0))


def _preference(metric: MetricSpec, answers: Sequence[KnownAnswer], seed: int) -> float | None:
    """How often the metric prefers the tokens that decide to as many others; a tie counts half. None if it never has a value."""
    wins = [win for lm, its_own in _by_model(answers) for win in _wins(metric, lm, its_own, seed)]
    return float(np.mean(wins)) if wins else None


def _by_model(answers: Sequence[KnownAnswer]) -> list[tuple[LanguageModel, list[KnownAnswer]]]:
    models = {id(answer.lm): answer.lm for answer in answers}
    return [(lm, [answer for answer in answers if answer.lm is lm]) for lm in models.values()]


def _wins(metric: MetricSpec, lm: LanguageModel, answers: Sequence[KnownAnswer], seed: int) -> Iterator[float]:
    """For each prompt of one model whether the metric prefers the tokens that decide."""
    bases = [attribute(lm, answer.ids, "uniform") for answer in answers]
    rows = {
        "decide": [_marking(base, answer.causes) for base, answer in zip(bases, answers, strict=True)],
        "others": [_marking(base, other_tokens(answer, seed)) for base, answer in zip(bases, answers, strict=True)],
    }
    prompts = [answer.ids for answer in answers] + [answers[0].ids]  # operator=resample wants more than one
    found = evaluate(lm, prompts, rows, [metric], controls=(), limit=len(answers), ladder=False, seed=seed)
    values = {(record.sample, record.method): record.value for record in found.records}
    sign = 1.0 if metric.metric.better == "higher" else -1.0
    for sample in range(len(answers)):
        decide, others = values[str(sample), "decide"], values[str(sample), "others"]
        if decide is not None and others is not None:
            yield float(np.sign(sign * (decide - others)) + 1) / 2


def other_tokens(answer: KnownAnswer, seed: int) -> tuple[int, ...]:
    """As many tokens as decide, drawn from those that do not."""
    free = [position for position in range(len(answer.ids)) if position not in answer.causes]
    rng = generator(seed, answer.ids, answer.causes, "others")
    return tuple(rng.choice(free, min(len(free), len(answer.causes)), replace=False).tolist())


def _marking(base: Attribution, positions: Sequence[int]) -> Attribution:
    """Scores of 1 on these tokens and of 0 on the others."""
    return replace(base, scores=np.isin(np.arange(base.scores.shape[1]), positions)[None].astype(float))


def _auroc(method: MethodSpec, answers: Sequence[KnownAnswer]) -> float | None:
    """The mean over the prompts of how surely the tokens that decide have higher scores than the others. None if the method fails."""
    try:
        return float(np.mean([auroc(attribute(answer.lm, answer.ids, method).scores[0], answer.causes) for answer in answers]))
    except NoiserError:
        return None
