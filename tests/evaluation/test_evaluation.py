"""Evaluations: every planned record is there, whatever goes wrong, and the tables say what the records say.

Mutants caught, each run: one sample's failure taken for all; a method's own exception let through; examples' groups ignored; rows
compared on different samples; the wrong sign for metrics where lower is better; controls among the rank groups; `permuted` not
permuted; the pool with the sample's own tokens in it; only the first step of a continuation; the seed not handed on.
"""

import json
from collections import Counter

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import NoiserError, NonFiniteError, OptionError
from noiser.evaluation import evaluate
from noiser.lm.perturbation import Interpolate, PerturbedRows
from noiser.metrics.sample import Value
from noiser.registry import METHODS, METRICS, method, metric, read_label
from noiser.results.records import Example, MethodRow, MetricColumn, Record
from noiser.results.tables import summarise
from tests.conftest import byte_tokenizer, tiny
from tests.toys import BrokenLM

PROMPTS = [(7, 200, 31, 150, 31, 99), (5, 9, 5), (120, 60, 30, 15, 7, 3, 8, 40), (99, 98, 97, 96)]
EXAMPLES = [Example(prompt, id=f"e{place}", group="ab"[place // 2]) for place, prompt in enumerate(PROMPTS)]
FAST = ["occlusion", "input_x_gradient"]


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer())


@pytest.fixture(scope="module")
def found(lm):
    return evaluate(lm, EXAMPLES, FAST, ["soft_ns", "soft_nc", "comprehensiveness", "deletion"])


def values(evaluation):
    return {(each.sample, each.method, each.metric): each.value for each in evaluation.records}


def balances(evaluation):
    """Every planned cell once, each with one status, values exactly where it is ok."""
    cells = Counter((each.sample, each.method, each.metric) for each in evaluation.records)
    assert set(cells.values()) == {1}
    assert len(cells) == evaluation.planned == sum(evaluation.statuses.values())
    assert {each.method for each in evaluation.records} == {each.label for each in evaluation.methods}
    for each in evaluation.records:
        assert (each.value is not None) == (each.status == "ok")
        assert each.message or each.status == "ok"
    for summary in evaluation.summaries:
        for row in summary.rows:
            gauges = 2 if summary.metric.startswith("faithfulness") else 1
            assert sum(row.statuses.values()) == evaluation.samples * gauges
    json.loads(evaluation.to_json())
    return evaluation


def test_every_planned_record_is_there(found):
    balances(found)
    assert found.statuses == {"ok": found.planned}
    assert found.planned == 4 * 7 * 4
    assert [each.label for each in found.methods] == [*FAST, "random", "uniform", "constant", "recency", "permuted:occlusion"]
    assert [each.metric for each in found.summaries] == ["soft_ns", "soft_nc", "faithfulness", "comprehensiveness", "deletion"]


def test_the_tables_are_the_records_summed_up(found):
    records = values(found)
    for summary in found.summaries:
        assert (summary.samples, summary.clusters) == (4, 2)
        if summary.metric == "faithfulness":
            continue
        means = {row.method: np.mean([records[each.id, row.method, summary.metric] for each in EXAMPLES]) for row in summary.rows}
        for row in summary.rows:
            assert row.mean.value == pytest.approx(means[row.method])
            if METRICS[summary.metric].relative:
                assert row.log_ratio.value == pytest.approx(np.log(means[row.method] / means["random"]))
            else:
                assert row.log_ratio is None
        own = [row.mean.value for row in summary.rows if not row.control]
        assert own == sorted(own, reverse=summary.better == "higher")
        assert [bool(row.group) for row in summary.rows] == [not row.control for row in summary.rows]
    ns, nc, both = found.summaries[:3]
    for row in both.rows:
        parts = [next(each.log_ratio.value for each in part.rows if each.method == row.method) for part in (ns, nc)]
        assert row.log_ratio.value == pytest.approx(sum(parts))


def test_company_order_and_batches_change_nothing(lm, found):
    small = noiser.LanguageModel(lm.model, lm.tokenizer, token_budget=16, prefix=False)
    again = evaluate(
        small, EXAMPLES[::-1], FAST[::-1], ["deletion", "comprehensiveness", "soft_nc", "soft_ns"], controls=["permuted:occlusion"]
    )
    other = values(again)
    for key, value in values(found).items():
        if key in other:
            assert other[key] == pytest.approx(value, abs=1e-5), key
    assert len(other) == 4 * 3 * 4


def test_the_first_examples_are_what_they_are_with_all(lm, found):
    part = evaluate(lm, EXAMPLES, FAST, {"soft_ns": {}, "comprehensiveness": {"operator": "resample"}}, limit=2)
    whole = evaluate(lm, EXAMPLES, FAST, {"soft_ns": {}, "comprehensiveness": {"operator": "resample"}})
    assert part.samples == 2
    for key, value in values(part).items():
        assert values(whole)[key] == pytest.approx(value, abs=1e-6)
    assert any(abs(value - values(found)[key]) > 1e-4 for key, value in values(whole).items() if key[2] == "comprehensiveness")


def test_replacements_come_from_other_prompts_only(lm):
    seen = []

    @metric("spy", source="a test", better="higher", measures="m", failure_mode="f")
    def spy(sample, candidate, *, operator: str = "resample"):
        seen.append((sample.ids, tuple(sample.pool)))
        return METRICS["aopc"].function(sample, candidate, operator="resample")

    try:
        evaluate(lm, EXAMPLES, ["uniform"], ["spy"], controls=[])
    finally:
        METRICS.pop("spy")
    for ids, pool in seen:
        assert Counter(pool) == Counter(token for prompt in PROMPTS if prompt != ids for token in prompt if token > 2)
    with pytest.raises(OptionError, match="more than one"):
        evaluate(lm, EXAMPLES[:1], ["uniform"], ["aopc:operator=resample"])


def test_a_continuation_is_the_mean_of_its_steps(lm):
    prompt = PROMPTS[0]
    ids = lm.generate(lm.prompt(prompt), 3)
    together = evaluate(lm, [prompt], ["occlusion"], ["soft_nc"], controls=[], generate=3)
    (record,) = together.records
    apart = []
    for step in range(3):
        single = evaluate(lm, [(*prompt, *ids[:step])], ["occlusion"], ["soft_nc"], controls=[])
        apart.append(single.records[0].value)
    assert [step["value"] for step in record.steps] == pytest.approx(apart, abs=1e-5)
    assert record.value == pytest.approx(np.mean(apart), abs=1e-5)
    assert max(apart) - min(apart) > 1e-4


def test_what_cannot_be_read_is_a_record_and_costs_the_others_nothing(lm, found):
    bad = [Example("", id="empty"), Example("\ud800", id="surrogate"), Example([5, 99999], id="unknown"), Example((5,) * 70, id="long")]
    mixed = balances(evaluate(lm, [*bad[:2], *EXAMPLES, *bad[2:]], FAST, ["soft_ns", "soft_nc"]))
    failed = {each.sample for each in mixed.records if each.status == "error(PromptError)"}
    assert failed == {"empty", "surrogate", "unknown", "long"}
    for key, value in values(mixed).items():
        if key in values(found):
            assert value == pytest.approx(values(found)[key], abs=1e-5)
    assert mixed.summaries[0].samples == 4
    assert any("compared on the 4 samples" in remark for remark in mixed.summaries[0].remarks)


def test_a_method_of_somebodys_that_breaks_fails_alone(lm, found):
    @method("breaks", family="perturbation", source="a test", cost="none")
    def breaks(lm, clean, goal):
        from noiser.methods.base import MethodOutput

        if len(clean.prompt) == 3:
            raise ZeroDivisionError("mine")
        if len(clean.prompt) == 4:
            return MethodOutput(np.full(4, np.nan))
        return MethodOutput(np.arange(len(clean.prompt), dtype=float))

    @metric("cracks", source="a test", better="higher", measures="m", failure_mode="f")
    def cracks(sample, candidate):
        if sample.seq == 8:
            raise LookupError("the metric's own")
        return Value(float("inf") if sample.seq == 6 else 1.0)

    try:
        mixed = balances(evaluate(lm, EXAMPLES, ["occlusion", "breaks"], ["soft_ns", "cracks"], controls=["random"]))
    finally:
        METHODS.pop("breaks")
        METRICS.pop("cracks")
    status = {(each.sample, each.method, each.metric): each.status for each in mixed.records}
    assert status["e1", "breaks", "soft_ns"] == "error(ZeroDivisionError)"
    assert status["e3", "breaks", "soft_ns"] == "nonfinite"
    assert status["e2", "occlusion", "cracks"] == "error(LookupError)"
    assert status["e0", "occlusion", "cracks"] == "nonfinite"
    for sample in ("e0", "e1", "e2", "e3"):
        assert values(mixed)[sample, "occlusion", "soft_ns"] == pytest.approx(values(found)[sample, "occlusion", "soft_ns"], abs=1e-5)
    table = mixed.summaries[0]
    assert table.samples == 2, "compared on what both have"
    assert "breaks lacks 2 of 4 samples" in table.remarks


def asks(request):
    """A metric that asks the engine for something of its own."""

    def odd(sample, candidate):
        yield request(sample)

    return odd


ODD_METRICS = {
    "a tuple for a list": asks(lambda sample: (PerturbedRows(sample.clean, sample.zero(), sample.hellinger()),)),
    "an edit that is too wide": asks(lambda sample: [PerturbedRows(sample.clean, Interpolate(0, torch.zeros(1, 50)), sample.hellinger())]),
    "text for a number": lambda sample, candidate: Value("a"),
    "no detail": lambda sample, candidate: Value(1.0, None),
    "detail that is no JSON": lambda sample, candidate: Value(1.0, {"a": np.ones(2)}),
    "NaN in the detail": lambda sample, candidate: Value(1.0, {"a": float("nan")}),
    "no memory": lambda sample, candidate: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")),
}


@pytest.mark.parametrize("name", ODD_METRICS)
def test_whatever_a_metric_asks_or_gives_is_its_own_failure(lm, name):
    metric("odd", source="a test", better="higher", measures="m", failure_mode="f")(ODD_METRICS[name])
    try:
        mixed = balances(evaluate(lm, EXAMPLES[:2], ["occlusion"], ["soft_ns", "odd"], controls=[]))
    finally:
        METRICS.pop("odd")
    status = {each.metric: each.status for each in mixed.records}
    assert status["soft_ns"] == "ok"
    assert status["odd"] == "oom" if name == "no memory" else status["odd"].startswith("error(")


@pytest.mark.parametrize("wrong", ["short", "long", "nothing", "numbers", "negative errors", "no errors"])
def test_what_a_method_may_not_return_is_its_own_failure(lm, wrong):
    from noiser.methods.base import MethodOutput

    @method("wrong", family="perturbation", source="a test", cost="none")
    def returns(lm, clean, goal):
        size = len(clean.prompt)
        made = {"short": size - 1, "long": size + 1}
        if wrong.endswith("errors"):
            return MethodOutput(np.ones(size), stderr=np.full(size, -1.0 if wrong == "negative errors" else np.nan))
        return MethodOutput(np.ones(made[wrong])) if wrong in made else None if wrong == "nothing" else np.ones(size)

    @metric("odd", source="a test", better="higher", measures="m", failure_mode="f")
    def odd(sample, candidate):
        return 0.5

    try:
        mixed = balances(evaluate(lm, EXAMPLES, ["wrong", "occlusion"], ["soft_ns", "odd"], controls=[]))
        with pytest.raises(NoiserError, match=r"one (score|number, at least 0,) for each of 6 tokens"):
            noiser.attribute(lm, PROMPTS[0], "wrong")
        alone = balances(evaluate(lm, EXAMPLES, ["wrong"], ["soft_ns", "odd"], controls=[]))
    finally:
        METHODS.pop("wrong")
        METRICS.pop("odd")
    assert mixed.statuses == {"error(ForeignError)": 12, "ok": 4}
    assert alone.statuses == {"error(ForeignError)": 8}


def test_a_model_that_answers_nan_to_some_rows_fails_in_those_only():
    """NaN to every disturbed row: the methods' own rows too, so only what needs none has scores, and no metric a value."""
    lm = noiser.LanguageModel(BrokenLM([0.1] * 6, when_clean=False), byte_tokenizer())
    result = balances(evaluate(lm, [[0, 1, 1, 0, 1, 0]], ["uniform", "noiser"], ["soft_ns", "aopc"], controls=[]))
    assert {each.status for each in result.records} <= {"nonfinite", "undefined", "ok"}
    assert {each.status for each in result.records if each.method == "noiser"} == {"nonfinite"}
    never = noiser.LanguageModel(BrokenLM([0.1] * 6, when_clean=True), byte_tokenizer())
    result = balances(evaluate(never, [[0, 1, 1, 0, 1, 0]], ["uniform"], ["soft_ns"], controls=[]))
    assert result.statuses == {"nonfinite": 1}


def test_attributions_that_are_there_already_are_taken_as_they_are(lm, found):
    given = [noiser.attribute(lm, prompt, "occlusion") for prompt in PROMPTS]
    again = evaluate(lm, EXAMPLES, {"mine": given, "occlusion": {}}, ["soft_ns"], controls=["random"])
    for each in EXAMPLES:
        assert values(again)[each.id, "mine", "soft_ns"] == values(again)[each.id, "occlusion", "soft_ns"]
    with pytest.raises(OptionError, match="one for each example"):
        evaluate(lm, EXAMPLES, {"mine": given[:2]}, ["soft_ns"])
    with pytest.raises(OptionError, match="other prompts"):
        evaluate(lm, EXAMPLES, {"mine": given[::-1]}, ["soft_ns"])
    aimed = [noiser.attribute(lm, prompt, "occlusion", target=9) for prompt in PROMPTS]
    assert balances(evaluate(lm, EXAMPLES, {"mine": aimed}, ["soft_ns"], controls=[])).statuses == {"error(OptionError)": 4}
    other = [noiser.attribute(noiser.LanguageModel(lm.model, lm.tokenizer, name="other"), prompt, "occlusion") for prompt in PROMPTS]
    with pytest.raises(OptionError, match="explain other, not"):
        evaluate(lm, EXAMPLES, {"mine": other}, ["soft_ns"])
    longer = balances(evaluate(lm, EXAMPLES, {"mine": given, "recency": {}}, ["soft_ns"], controls=[], generate=2))
    assert {(each.method, each.status) for each in longer.records} == {("mine", "error(OptionError)"), ("recency", "ok")}
    aimed = balances(evaluate(lm, [Example(PROMPTS[0], target=9)], ["recency"], ["soft_ns"], controls=[], generate=2))
    assert aimed.statuses == {"error(OptionError)": 1}, "a target and a continuation at once"


def test_permuted_scores_are_a_methods_own_in_another_order(lm):
    result = evaluate(
        lm, EXAMPLES, ["occlusion", "recency"], ["soft_ns:protocol=paper"], controls=["permuted", "permuted:recency", "random"]
    )
    labels = [each.label for each in result.methods]
    assert labels == ["occlusion", "recency", "permuted:occlusion", "permuted:recency", "random"]
    assert (
        values(result)["e0", "permuted:occlusion", "soft_ns:protocol=paper"] != values(result)["e0", "occlusion", "soft_ns:protocol=paper"]
    )
    again = evaluate(lm, EXAMPLES, ["occlusion"], ["soft_ns:protocol=paper"], controls=["permuted"], seed=0)
    for each in EXAMPLES:
        key = each.id, "permuted:occlusion", "soft_ns:protocol=paper"
        assert values(again)[key] == pytest.approx(values(result)[key], abs=1e-6)


def test_the_seed_reaches_methods_masks_and_controls(lm):
    one, same, other = (evaluate(lm, EXAMPLES[:2], ["gradient_shap"], ["soft_nc"], controls=["random"], seed=seed) for seed in (0, 0, 5))
    assert one.to_dict()["records"] == same.to_dict()["records"]
    assert all(abs(value - values(other)[key]) > 1e-6 for key, value in values(one).items())
    assert {each.options.get("seed") for each in other.methods} == {5}


def test_names_carry_options():
    assert read_label("noiser") == ("noiser", {})
    assert read_label("noiser:bound=l2+steps=5") == ("noiser", {"bound": "l2", "steps": "5"})
    assert read_label("inseq:lime") == ("inseq:lime", {})
    assert read_label("inseq:lime:n_samples=5") == ("inseq:lime", {"n_samples": "5"})
    for wrong in ("noiser:=5", ":a=b", "noiser:bound=l2+steps"):
        with pytest.raises(OptionError):
            read_label(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"methods": ["nonsense"]},
        {"methods": ["occlusion:nonsense=1"]},
        {"methods": []},
        {"methods": "occlusion"},
        {"methods": ["occlusion", "occlusion"]},
        {"metrics": ["nonsense"]},
        {"metrics": ["soft_ns:masks=0"]},
        {"controls": ["permuted:lime"]},
        {"controls": ["nonsense"]},
        {"examples": []},
        {"examples": "one text"},
        {"examples": [{"text": "no prompt"}]},
        {"examples": [{"prompt": "a", "gold": "b"}]},
        {"examples": [Example("a", id="x"), Example("b", id="x")]},
        {"methods": ["occlusion:baseline=unk"], "metrics": {"soft_ns:masks=3": {"masks": 4}}},
        {"methods": {"occlusion": "baseline=unk"}},
        {"methods": {"mine": []}},
        {"methods": {"mine": iter([])}},
        {"controls": ["permuted", "permuted:occlusion"]},
        {"generate": 0},
        {"limit": 0},
    ],
)
def test_what_makes_no_sense_is_said_before_the_model_runs(lm, wrong):
    before = lm.token_counter.forward_tokens
    with pytest.raises(OptionError):
        evaluate(lm, **{"examples": EXAMPLES, "methods": FAST, "metrics": ["soft_ns"], **wrong})
    assert lm.token_counter.forward_tokens == before


def made(table, better="higher", relative=True, groups=None, controls=("random",)):
    """Records of one metric from a table of values by method."""
    records = [
        Record(f"s{sample}", groups[sample] if groups else f"s{sample}", label, "m", "ok" if np.isfinite(value) else "nonfinite",
               float(value) if np.isfinite(value) else None, "" if np.isfinite(value) else "NaN")
        for label, row in table.items() for sample, value in enumerate(row)
    ]  # fmt: skip
    contenders = [MethodRow(label, label, {}, label in controls) for label in table]
    return summarise(records, contenders, [MetricColumn("m", "m", {}, better, relative)])[0]


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_what_is_far_apart_is_told_apart_and_what_is_not_is_not(better):
    rng = np.random.default_rng(0)
    base = rng.normal(5, 0.1, 40)
    sign = 1 if better == "higher" else -1
    table = made(
        {"worst": base - sign, "best": base + sign, "twin": base + sign + rng.normal(0, 0.1, 40), "random": base, "boss": base + 3 * sign},
        better=better,
        controls=("random", "boss"),
    )
    letters = {row.method: row.group for row in table.rows}
    assert letters["best"] == letters["twin"] == "a"
    assert letters["worst"] == "b"
    assert letters["random"] == letters["boss"] == ""
    assert [row.method for row in table.rows][2:] == ["worst", "boss", "random"]
    assert any(remark.startswith("the control boss beats every method:") for remark in table.remarks)
    assert "the control random beats worst" in table.remarks
    assert not any("not told apart" in remark for remark in table.remarks)
    same = made({"one": base, "random": base + rng.normal(0, 0.1, 40)}, better=better)
    assert "not told apart from random: one" in same.remarks


def test_pairing_finds_what_the_intervals_of_single_rows_cannot():
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 5, 60)
    table = made({"a": 20 + hard, "b": 19.5 + hard + rng.normal(0, 0.1, 60), "random": 10 + hard})
    first, second = table.rows[:2]
    assert first.mean.low < second.mean.high, "the intervals overlap widely"
    assert (first.group, second.group) == ("a", "b")
    (difference,) = table.differences
    assert difference["low"] < 0.5 < difference["high"]
    assert difference["p_holm"] < 1e-6


def test_below_five_clusters_nothing_has_an_interval_or_a_test():
    values = np.random.default_rng(3).normal(5, 0.1, 12)
    for clusters, remark in ((4, "4 clusters: too few for an interval; at least 5 are needed"), (1, "1 cluster: too few for an interval")):
        groups = [f"g{sample % clusters}" for sample in range(12)]
        table = made({"a": values, "b": values - 1, "random": values - 2}, groups=groups)
        assert table.remarks == (table.remarks[0],)
        assert table.remarks[0].startswith(remark)
        assert [(row.mean.low, row.mean.high, row.log_ratio.low, row.log_ratio.high) for row in table.rows] == [(None,) * 4] * 3
        assert [row.group for row in table.rows] == ["a", "a", ""]
        (difference,) = table.differences
        assert difference["value"] == pytest.approx(1.0)
        assert [difference[name] for name in ("low", "high", "p", "p_holm")] == [None] * 4
    table = made({"a": values, "b": values - 1, "random": values - 2}, groups=[f"g{sample % 5}" for sample in range(12)])
    assert table.remarks[-1] == "only 5 clusters: the intervals are rough"
    assert table.rows[0].mean.low < table.rows[0].mean.value < table.rows[0].mean.high


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_difference_is_significant_exactly_if_its_interval_excludes_zero(better):
    rng = np.random.default_rng(4)
    told = []
    for _ in range(60):
        base, step = rng.exponential(size=8) + 1, rng.normal(0.5, 0.7, 8)
        (difference,) = made({"a": base + step, "b": base}, better=better, controls=()).differences
        assert difference["low"] < difference["value"] < difference["high"]
        assert (difference["p"] < 0.05) == (not difference["low"] <= 0 <= difference["high"])
        told.append(difference["p"] < 0.05)
    assert 5 < sum(told) < 55


def test_an_interval_ends_where_the_quantity_does():
    values = np.array([0.0, 0.0, 0.0, 0.1, 0.0, 1.0])
    assert made({"a": values, "random": values + 1}).rows[0].mean.low == 0.0, "soft metrics are not negative"
    assert made({"a": values, "random": values + 1}, relative=False).rows[0].mean.low < 0.0


def test_clusters_widen_intervals():
    rng = np.random.default_rng(2)
    groups = [f"g{sample // 10}" for sample in range(100)]
    shared = np.repeat(rng.normal(5, 1, 10), 10) + rng.normal(0, 0.1, 100)
    naive, clustered = (made({"a": shared, "random": shared}, groups=given).rows[0].mean for given in (None, groups))
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


def test_a_mean_without_a_logarithm_has_no_ratio():
    table = made({"nothing": np.zeros(12), "random": np.ones(12)})
    nothing, random = table.rows
    assert nothing.log_ratio.value is None
    assert nothing.mean.value == 0
    assert random.log_ratio.value == 0
    bare = made({"a": np.ones(12)}, controls=())
    assert bare.rows[0].log_ratio is None, "without random there is nothing to take a ratio to"


def test_a_row_without_values_is_named_and_does_not_empty_the_table():
    table = made({"a": np.arange(12.0), "gone": np.full(12, np.nan), "random": np.ones(12)})
    assert table.samples == 12
    assert "gone has no value at all" in table.remarks
    assert next(row.statuses for row in table.rows if row.method == "gone") == {"nonfinite": 12}
    empty = made({"a": np.full(3, np.nan), "random": np.full(3, np.nan)})
    assert empty.samples == 0
    assert all(row.mean.value is None for row in empty.rows)


def test_scores_that_are_no_numbers_are_refused_by_every_metric(lm):
    from noiser.metrics.sample import ScoresToEvaluate

    with pytest.raises(NonFiniteError):
        ScoresToEvaluate(np.array([np.nan]))


def test_names_are_never_in_each_others_way(lm):
    examples = [Example(PROMPTS[0], id="1"), PROMPTS[1], Example(PROMPTS[2], id="2", group="1"), {"prompt": PROMPTS[3], "id": "\ud800"}]
    found = balances(evaluate(lm, examples, ["recency"], ["soft_ns"], controls=[]))
    assert [each.sample for each in found.records] == ["1", "1'", "2", "\\ud800"]
    assert found.summaries[0].clusters == 4, "a group called as a sample is another cluster"
    found.to_json().encode()


def test_rows_without_values_stay_with_their_kind():
    table = made({"a": np.arange(12.0), "gone": np.full(12, np.nan), "random": np.ones(12)})
    assert [row.method for row in table.rows] == ["a", "gone", "random"]


def test_the_draws_held_at_a_time_are_bounded(lm, monkeypatch, found):
    monkeypatch.setattr("noiser.evaluation.runner.MAX_RANDOM_BYTES", 1)
    again = evaluate(lm, EXAMPLES, FAST, ["soft_ns", "soft_nc"])
    for key, value in values(again).items():
        assert values(found)[key] == pytest.approx(value, abs=1e-6)


def test_the_global_generators_stay_where_they_are(lm):
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    evaluate(lm, EXAMPLES[:2], ["occlusion"], ["soft_ns", "aopc:operator=resample"])
    noiser.check(lm, ["recency"], prompts=PROMPTS)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]
