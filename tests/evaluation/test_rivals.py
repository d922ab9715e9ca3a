"""Win rates against random orders and the ladder in every table, by plain loops; and verdicts of one metric with two operators.

Mutants caught, each run: the permutation of scores for that of ranks (methods no longer share orders); a tie counted as won; p without
its 1; `better` left out; a disagreement that is looked up for one order of the pair only; a ladder that counts equal neighbours as
right, that every row climbs, or that ignores which side is better; a remark that compares the rate itself with chance, not its interval.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import noiser
from noiser.errors import OptionError
from noiser.results.records import MethodRow, MetricColumn, Number, Record, Row, Summary
from noiser.results.tables import summarise, with_operators
from noiser.rng import generator
from tests.conftest import byte_tokenizer, tiny

PROMPTS = [(7, 200, 31, 150, 99), (9, 60, 61, 200, 20, 5)]
N = 9


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer())


def scored(base, scores):
    return replace(base, scores=np.asarray(scores, float)[None])


@pytest.mark.parametrize(("metric", "sign"), [("aopc", 1), ("deletion", -1), ("soft_nc:masks=3", 1)])
def test_the_win_rate_is_that_of_a_plain_loop(lm, metric, sign):
    found = noiser.evaluate(lm, PROMPTS, ["occlusion"], [metric], controls=(), orders=N, ladder=False)
    for record, ids in zip(found.records, PROMPTS, strict=True):
        base = noiser.attribute(lm, ids, "occlusion")
        falling = sorted(base.scores[0], reverse=True)
        rivals = []
        for index in range(N):
            order = generator(0, ids, "orders", index).permutation(len(ids))
            shuffled = [falling[list(order).index(token)] for token in range(len(ids))]
            (alone,) = noiser.evaluate(lm, [ids], {"a": [scored(base, shuffled)]}, [metric], controls=(), ladder=False).records
            rivals.append(alone.value)
        gaps = sign * (record.value - np.array(rivals))
        won = [1.0 if gap > 1e-7 else 0.5 if abs(gap) <= 1e-7 else 0.0 for gap in gaps]
        assert record.extra["win_rate"] == pytest.approx(np.mean(won))
        assert record.extra["p_random"] == pytest.approx((1 + sum(gap <= 1e-7 for gap in gaps)) / (N + 1))


def test_methods_without_ties_share_the_orders(lm):
    def spent(methods):
        before = lm.token_counter.forward_tokens
        noiser.evaluate(lm, PROMPTS, methods, ["aopc"], controls=(), orders=N, ladder=False)
        return lm.token_counter.forward_tokens - before

    one, three = spent(["recency"]), spent(["recency", "random", "random:seed=5"])
    assert three - one <= 2 * sum(len(ids) ** 2 for ids in PROMPTS), "their own rows, and no further orders"


def test_equal_scores_neither_win_nor_lose_and_nobody_is_asked_twice(lm):
    found = noiser.evaluate(lm, PROMPTS, ["uniform"], ["aopc"], controls=(), orders=N, ladder=False)
    assert [record.extra for record in found.records] == [{"win_rate": 0.5, "p_random": 1.0}] * 2


def test_random_scores_win_half_the_time_and_the_table_says_so(lm):
    prompts = [(index, index + 1, index + 7, index + 30, index + 2) for index in range(20, 60)]
    found = noiser.evaluate(lm, prompts, ["occlusion"], ["aopc"], controls=["random"], orders=N, ladder=False)
    rows = {row.method: row.win_rate for row in found.summaries[0].rows}
    assert rows["random"].low < 0.5 < rows["random"].high
    assert rows["occlusion"].low > 0.55
    assert f"beats {rows['occlusion'].value:.3f} [" in str(found)
    assert "win_rate" in found.summaries[0].rows[0].to_dict()
    plain = noiser.evaluate(lm, prompts[:2], ["occlusion"], ["aopc"], controls=())
    assert "win_rate" not in plain.summaries[0].rows[0].to_dict()
    with pytest.raises(OptionError, match="0 or more"):
        noiser.evaluate(lm, prompts, ["occlusion"], ["aopc"], orders=-1)


@pytest.mark.parametrize(("metric", "sign"), [("aopc", 1), ("deletion", -1)])
def test_the_ladder_is_that_of_a_plain_loop(lm, metric, sign):
    found = noiser.evaluate(lm, PROMPTS, ["occlusion", "recency"], [metric], controls=["permuted"])
    for sample, ids in enumerate(PROMPTS):
        base = noiser.attribute(lm, ids, "occlusion")
        noise = generator(0, ids, "permuted").permutation(base.scores[0])
        rungs = []
        for share in (0, 0.25, 0.5, 0.75, 1):
            row = {"a": [scored(base, (1 - share) * base.scores[0] + share * noise)]}
            rungs.append(noiser.evaluate(lm, [ids], row, [metric], controls=(), ladder=False).records[0].value)
        right = [1.0 if sign * (a - b) > 1e-7 else 0.5 if abs(a - b) <= 1e-7 else 0.0 for a, b in pairwise(rungs)]
        by_method = {record.method: record for record in found.records if record.sample == str(sample)}
        assert by_method["occlusion"].extra["ladder"] == pytest.approx(np.mean(right))
        assert by_method["permuted:occlusion"].value == pytest.approx(rungs[-1], abs=1e-6), "the last rung is the control"
        assert "ladder" not in by_method["recency"].extra


def climbing(rates, extra=True):
    columns = [MetricColumn("m", "m", {}, "higher", False)]
    rows = [MethodRow("x", "x", {}, False), MethodRow("permuted:x", "permuted", {}, True)]
    records = []
    for sample, rate in enumerate(rates):
        value = None if rate is None else 1.0 + rate
        records.append(Record(str(sample), None, "x", "m", "ok", value, extra={"ladder": rate} if extra else {}))
        records.append(Record(str(sample), None, "permuted:x", "m", "ok", 1.5))
    (table,) = summarise(records, rows, columns)
    return [remark for remark in table.remarks if "ladder" in remark or "random order" in remark]


def test_a_table_says_that_its_metric_does_not_order_the_ladder():
    (remark,) = climbing([0.25, 0.75, 0.5, 0.75, 0.5, 0.75, 0.25, 0.75])
    assert remark.startswith("does not order its ladder on these data: right in 0.56 (0.")
    assert "in the scores of x; chance is 0.5" in remark
    assert climbing([0.75, 1.0, 0.75, 1.0, 0.5, 0.75, 1.0, 0.75]) == []


def test_a_table_without_a_ladder_compares_its_ends():
    assert climbing([0.25, 0.75, 0.5, 0.75, 0.25], extra=False) == ["not told apart from the same scores in a random order: x"]
    assert climbing([0.9, 0.95, 0.9, 0.95, 0.9], extra=False) == []
    assert climbing([None] * 5, extra=False) == [], "a method without a value is compared with nothing"


def test_the_default_table_has_two_operators_and_its_ladder_costs_three_rows(lm):
    found = noiser.evaluate(lm, PROMPTS, ["occlusion"], controls=["permuted"])
    assert {column.options.get("operator") for column in found.metrics} >= {"delete", "infill"}

    def spent(**options):
        before = lm.token_counter.forward_tokens
        noiser.evaluate(lm, PROMPTS, ["occlusion"], ["aopc"], controls=["permuted"], **options)
        return lm.token_counter.forward_tokens - before

    assert 0 < spent() - spent(ladder=False) <= 3 * sum(len(ids) ** 2 for ids in PROMPTS)


def test_methods_that_score_different_units_are_refused(lm):
    with pytest.raises(OptionError, match=r"(?s)different units.*features of occlusion:unit=word: each word.*of lime: each token"):
        noiser.evaluate(lm, PROMPTS, ["occlusion:unit=word", "lime"], ["aopc"])


def summary(metric, *tests):
    rows = tuple(Row(name, False, Number(0.0), None, "a", {}) for name in ("x", "y", "z"))
    differences = tuple({"method": a, "other": b, "p_holm": p, "better": better} for a, b, p, better in tests)
    return Summary(metric, "higher", rows, 9, 9, differences)


def test_verdicts_on_which_two_operators_disagree_are_marked():
    columns = [MetricColumn(f"aopc:operator={o}", "aopc", {"operator": o}, "higher", False) for o in ("delete", "infill")]
    deleted = summary("aopc:operator=delete", ("x", "y", 0.01, True), ("x", "z", 0.01, True), ("y", "z", 0.2, True))
    infilled = summary("aopc:operator=infill", ("y", "x", 0.01, True), ("x", "z", 0.3, True), ("y", "z", 0.4, False))
    first, second = with_operators([deleted, infilled], columns)
    assert first.remarks == ()
    assert second.remarks == (
        "contradicts aopc:operator=delete on x and y: a verdict about the operator",
        "x and z are told apart under aopc:operator=delete only: a verdict that depends on the operator",
    )
    same = summary("aopc:operator=infill", ("y", "x", 0.01, False), ("z", "x", 0.01, False), ("z", "y", 0.4, False))
    assert with_operators([deleted, same], columns)[1].remarks == ()
    other = [columns[0], MetricColumn("naopc:operator=infill", "naopc", {"operator": "infill"}, "higher", False)]
    assert with_operators([deleted, summary("naopc:operator=infill")], other)[1].remarks == ()
