"""From records of judges to tables and figures: rates, scores, agreement and ranks by hand; the report of a run that asked two judges.

Mutants caught: a refused sample that leaves the denominator; a score that is divided by the answered samples only; a mean of ratios
for a ratio of sums; a sample that one row lacks and the others keep; the paper's table 6 beside top-1; controls among the ranks of
figure 4; kappa without the chance's share; the ceiling of the last row; calls and plain calls changed over; a judge's name that
reaches HTML, Markdown or LaTeX as it is.
"""

import json
import math
import shutil
from itertools import pairwise

import numpy as np
import pytest

from noiser.cli.report import render
from noiser.errors import OptionError
from noiser.experiments.folder import RUN, RunFolder
from noiser.experiments.report import paper
from noiser.experiments.report.differences import answer_differences
from noiser.experiments.report.report import report
from noiser.experiments.report.reproduce import PUBLISHED, published, reproduction
from noiser.experiments.trials import VALUE, RunContents
from noiser.results.answer_comparison import faithfulness_correlations, judge_agreements, kappa, minimal_words_summaries
from noiser.results.scores import rank_correlations
from noiser.results.answerability import answer_summaries, answerers
from noiser.results.evaluation import Evaluation
from noiser.results.records import MethodRow, MetricColumn, Number, Record
from noiser.results.tables import summarise
from noiser.storage import create_once, encode, read_created
from noiser.views.plots import break_name, spread_apart
from noiser.views.terminal.evaluation import to_text
from tests.experiments.test_report import HOSTILE, Tags
from tests.experiments.test_runs import run
from tests.runs import make_place

OPTIONS = {"share": 0.5, "forms": "top1,top5", "variant": "paper", "words": "unicode", "checks": True, "seed": 0}
GAUGE = MetricColumn("answerability", "answerability", OPTIONS, "higher", False, "local:a")
GOOD, BAD, RANDOM = MethodRow("good", "good", {}, False), MethodRow("bad", "bad", {}, False), MethodRow("random", "random", {}, True)


def record(sample, method, right, *, mass=0.5, status="ok", metric="answerability", group=None, ceiling=1.0, top5=1.0, steps=()):
    also = {"mass": mass, "given": 0.0}
    for form, f in (("top1", right), ("top5", top5)):
        also |= {form: f, f"{form}.score": f * mass, f"{form}.refused": float(status == "refused"), f"{form}.invalid": 0.0}
        also |= {f"{form}.shuffled": 0.0, f"{form}.all": ceiling, f"{form}.none": 0.0, f"{form}.random": 0.0, f"{form}.canary": 0.0}
    return Record(str(sample), group, method, metric, status, right, steps=tuple(steps), extra=also)


def by_hand(right, of):
    """Wilson's interval, written out."""
    z, p = 1.959963984540054, right / of
    middle, reach = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (middle - reach) / (1 + z * z / of), (middle + reach) / (1 + z * z / of)


def test_rates_and_scores_are_those_by_hand_and_a_refusal_counts_as_wrong():
    """3 of 10 right, 2 refused: the rate is 3/10; the score is (0.2 + 0.4 + 0.9) / 10, over the answered ones / 3."""
    masses = {0: 0.2, 1: 0.4, 2: 0.9}
    records = [
        record(n, "good", float(n < 3), mass=masses.get(n, 0.7), status="refused" if n in (3, 4) else "ok", ceiling=float(n < 8))
        for n in range(10)
    ]
    records += [record(n, "random", 0.0, ceiling=float(n < 8)) for n in range(10)]
    top1, top5 = answer_summaries(records, [GOOD, RANDOM], [GAUGE])
    good, control = top1.rows
    assert (top1.form, top1.judge, top1.samples, top1.clusters, control.control) == ("top1", "local:a", 10, 10, True)
    assert (good.rate.right, good.rate.of, good.refused, good.invalid, good.errors) == (3.0, 10, 2.0, 0.0, 0)
    assert (good.rate.wilson.low, good.rate.wilson.high) == pytest.approx(by_hand(3, 10))
    assert good.score.value == pytest.approx(1.5 / 10)
    assert good.score_answered.value == pytest.approx(1.5 / 3)
    assert good.score_answered.low is None, "three clusters with a right answer are too few"
    assert top5.rows[0].score_answered.low < top5.rows[0].score_answered.value < top5.rows[0].score_answered.high
    assert good.mass.value == pytest.approx((1.5 + 7 * 0.7) / 10)
    assert good.rate.clustered.low < 0.3 < good.rate.clustered.high
    assert {name: rate.right for name, rate in top1.conditions.items()} == {"all": 8.0, "random": 0.0, "none": 0.0, "canary": 0.0}
    assert (control.rate.wilson.low, control.rate.wilson.high) == pytest.approx(by_hand(0, 10), abs=1e-12)
    assert (control.rate.clustered.low, control.rate.clustered.high) == (0.0, 0.0)
    assert top5.rows[0].rate.right == 10.0
    json.dumps([top1.to_dict(), top5.to_dict()], allow_nan=False)


def test_the_score_over_answered_samples_is_a_ratio_of_sums_without_each_cluster_too():
    """All right in six clusters of unequal mass and size; then as many clusters again that have no right answer."""
    records = [record(n, "good", 1.0, mass=0.2 if n < 6 else 0.8, group=str(max(n - 2, 0))) for n in range(8)]
    (found, _) = answer_summaries(records, [GOOD], [GAUGE])
    (row,) = found.rows
    assert row.score_answered == row.score, "with every answer right both are the same mean"
    assert row.score.value == pytest.approx(0.35)
    assert row.score.low == 0.0, "cut at the limit of a share"
    assert 0.35 < row.score.high < 1.0
    assert (row.rate.clustered.low, row.rate.clustered.high) == (1.0, 1.0)
    (more, _) = answer_summaries([*records, *(record(n, "good", 0.0) for n in range(8, 14))], [GOOD], [GAUGE])
    assert (more.clusters, more.rows[0].score_answered) == (12, row.score_answered), "clusters without an answer say nothing about it"
    (few, _) = answer_summaries([*records[4:], *(record(n, "good", 0.0) for n in range(8, 14))], [GOOD], [GAUGE])
    assert few.rows[0].score_answered == Number(few.rows[0].score_answered.value), "four clusters are too few"
    assert few.rows[0].score.low is not None
    mixed = [record(n, "good", 1.0 if n < 4 else 0.25, mass=1.0 if n < 4 else 0.4) for n in range(8)]
    (found, _) = answer_summaries(mixed, [GOOD], [GAUGE])
    assert found.rows[0].score_answered.value == pytest.approx((4 * 1.0 + 4 * 0.25 * 0.4) / 5), "a mean of the ratios would be 0.7"


def test_a_sample_that_one_row_lacks_leaves_all_rows_and_is_counted():
    records = [record(n, method, 1.0) for n in range(12) for method in ("good", "bad")]
    records[5] = Record("2", None, "bad", "answerability", "error(JudgeError)", None, "nobody there")
    records[7] = Record("3", None, "bad", "answerability", "undefined", None, "nothing")
    found, _ = answer_summaries(records, [GOOD, BAD, RANDOM], [GAUGE])
    good, bad = sorted((row for row in found.rows if not row.control), key=lambda row: row.method, reverse=True)
    assert [(row.rate.of, row.errors, row.undefined) for row in (good, bad)] == [(10, 0, 0), (10, 1, 1)]
    assert "bad lacks 2 of 12 samples" in found.remarks
    assert "random has no value at all" in found.remarks
    assert found.rows[-1].rate is None
    empty, _ = answer_summaries([records[5]], [BAD], [GAUGE])
    assert (empty.samples, empty.rows[0].rate, empty.conditions, empty.rows[0].errors) == (0, None, {}, 1)


def test_methods_that_differ_have_letters_of_their_own():
    records = [record(n, method, right) for n in range(40) for method, right in (("good", float(n % 8 != 0)), ("bad", float(n % 8 == 0)))]
    found, _ = answer_summaries(records, [BAD, GOOD], [GAUGE])
    assert [(row.method, row.group) for row in found.rows] == [("good", "a"), ("bad", "b")]
    (difference,) = found.differences
    assert (difference["value"], difference["better"]) == (pytest.approx(0.75), True)
    assert difference["p_holm"] < 0.001


def test_a_condition_is_the_first_rows_and_two_answers_to_one_clue_are_said():
    records = [record(n, method, 1.0, ceiling=float(method == "good" or n > 0)) for n in range(10) for method in ("good", "bad")]
    found, _ = answer_summaries(records, [GOOD, BAD], [GAUGE])
    assert found.conditions["all"].right == 10.0
    assert "all: the judge answered the same clue differently in 1 samples; the first row's answer counts" in found.remarks


def test_a_continuation_has_no_wilsons_interval_where_its_sum_is_no_whole_number():
    records = [record(n, "good", 0.5 if n == 0 else 1.0) for n in range(10)]
    found, top5 = answer_summaries(records, [GOOD], [GAUGE])
    assert (found.rows[0].rate.right, found.rows[0].rate.wilson.low) == (9.5, None)
    assert found.rows[0].rate.clustered.value == pytest.approx(0.95)
    assert any("Wilson" in remark for remark in found.remarks)
    assert not any("Wilson" in remark for remark in top5.remarks)


def test_kappa_is_that_of_a_table_by_hand():
    """20 both right, 15 both wrong, 5 and 10 apart: observed 0.7, by chance 0.5, kappa 0.4."""
    cells = [(1.0, 1.0)] * 20 + [(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 10 + [(0.0, 0.0)] * 15
    assert kappa(cells) == pytest.approx(0.4)
    assert kappa([(1.0, 1.0)] * 3) is None
    assert kappa([]) is None


def test_judges_agree_as_often_as_their_verdicts_are_equal():
    two = [MetricColumn(f"answerability[{name}]", "answerability", OPTIONS, "higher", False, name) for name in ("a", "b")]
    others = MetricColumn("answerability[c]:forms=top1", "answerability", {**OPTIONS, "forms": "top1"}, "higher", False, "c")
    records = [record(n, "good", 1.0, metric=two[0].label, top5=1.0) for n in range(10)]
    records += [record(n, "good", float(n < 7), metric=two[1].label, top5=1.0) for n in range(10)]
    records.append(record(10, "good", 1.0, metric=two[0].label))
    top1, top5 = judge_agreements(records, [GOOD], [*two, others])
    assert (top1.cells, top1.samples, top1.equal.value, top1.kappa) == (10, 10, pytest.approx(0.7), 0.0)
    assert (top5.form, top5.equal.value, top5.equal.low, top5.equal.high, top5.kappa) == ("top5", 1.0, 1.0, 1.0, None)
    assert top1.to_dict()["judges"] == ["a", "b"]


def test_minimum_top_p_counts_who_is_out_and_what_was_saved():
    gauge = MetricColumn("minimum_top_p", "minimum_top_p", {"form": "top1", "search": "bisection"}, "lower", False, "local:a")
    records = [
        Record(str(n), None, method, gauge.label, "ok", share, extra={"calls": 3.0, "plain_calls": 8.0})
        for n in range(4)
        for method, share in (("good", 0.25 * (n % 2 + 1)), ("bad", 1.0))
    ]
    records += [Record("4", None, method, gauge.label, "undefined", None) for method in ("good", "bad")]
    (found,) = minimal_words_summaries(records, [BAD, GOOD], [gauge])
    assert [row.method for row in found.rows] == ["good", "bad"], "fewer words are better"
    good = found.rows[0]
    assert (good.mean.value, good.shares, good.out) == (pytest.approx(0.375), (0.25, 0.25, 0.5, 0.5), 1)
    assert (good.calls, good.plain_calls, good.saved) == (12.0, 32.0, 20.0)
    assert found.samples == 4


def test_ranks_correlate_over_the_methods_alone():
    assert rank_correlations(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])).tolist() == [1.0, -1.0]
    soft = [MetricColumn(name, name, {"masks": 2}, "higher", True) for name in ("soft_ns", "soft_nc")]
    rows = [MethodRow(name, name, {}, name == "random") for name in ("a", "b", "c", "random")]
    faith, rate = {"a": 0.3, "b": 0.6, "c": 0.9, "random": 0.1}, {"a": 0.2, "b": 0.4, "c": 0.6, "random": 1.0}
    records = [record(n, name, float(n < 20 * share)) for n in range(20) for name, share in rate.items()]
    records += [Record(str(n), None, name, gauge.label, "ok", value) for n in range(20) for name, value in faith.items() for gauge in soft]
    (found,) = faithfulness_correlations(records, rows, [*soft, GAUGE])
    assert (found.methods, found.samples) == (3, 20)
    assert found.spearman.value == pytest.approx(1.0), "with random among them it would not be"
    points = {point.method: point for point in found.points}
    assert points["b"].faithfulness.value == pytest.approx(2 * math.log(6))
    assert points["random"].faithfulness.value == 0.0
    assert points["b"].rate.value == pytest.approx(0.4)
    assert [point.method for point in found.points] == ["c", "b", "a", "random"]
    assert faithfulness_correlations(records, rows[:3], [*soft, GAUGE]) == (), "there is no ratio to random without it"


def test_the_models_that_answered_are_found_in_the_steps():
    steps = [{"forms": {"top1": {"kept": {"model": "b"}, "all": {"model": "a"}}, "top5": {"kept": {"model": "b"}, "none": {"model": ""}}}}]
    assert answerers(steps) == ("a", "b")
    assert answerers([{"value": 1.0}]) == ()


@pytest.mark.parametrize("width", [100, 120])
def test_a_terminal_shows_every_row_and_condition_within_its_width(width):
    rows = [MethodRow("sequential_integrated_gradients:steps=16", "s", {}, False), GOOD, RANDOM]
    said = {"forms": {"top1": {"kept": {"model": "m\u202e"}}}}
    records = [record(n, row.label, float(n % 2), steps=[said], status="refused" if n == 2 else "ok") for n in range(20) for row in rows]
    evaluation = Evaluation("m", "r", 0, tuple(rows), (GAUGE,), 20, tuple(records), summarise(records, rows, [GAUGE]))
    shown = to_text(evaluation, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "top-1, judge local:a, answered by m\\u202e; 20 compared" in shown.replace("\n", " ")
    for word in ("good", "all words", "random words", "no words", "hidden instruction", "1/0/0", "A 0.50", "W [0.30, 0.70]"):
        assert word in shown, word
    plain = Evaluation("m", "r", 0, tuple(rows), (MetricColumn("x", "x", {}, "higher", False),), 0, (), summarise([], rows, [GAUGE]))
    assert "Wilson" not in to_text(plain)


def test_the_papers_cells_are_those_of_the_form():
    assert paper.answerability("top1", "last_attention", "Qwen2-0.5B") == ("0.14", "0.094")
    assert paper.answerability("top5", "last_attention", "Qwen2-0.5B") == ("0.26", "0.172")
    assert paper.answerability("top1", "last_attention", "average") == ("0.31", "0.168")
    assert paper.answerability("top1", "nothing", "average") == ("", "")
    assert (paper.ceiling("top1"), paper.ceiling("top5")) == ("0.84", "0.92")


def test_published_answers_have_plans_of_their_own_and_two_tables_share_a_run():
    three, six = published("table3"), published("table6")
    assert (three.metrics, three.data, len(three.methods)) == (("answerability",), ("known",), 10)
    assert (three.folder, six.folder, published("figure3").folder, published("table1").folder) == ("answerability", "answerability", "", "")
    assert {name for name, each in PUBLISHED.items() if each.judged} == {"table3", "table6", "figure3", "figure4"}
    assert {"soft_ns:protocol=matched", "answerability"} <= set(published("figure4").metrics)
    with pytest.raises(OptionError, match=r"table1 asks no judge: leave out openai:x\. Judges are for table3, table6, figure3, figure4"):
        reproduction("table1", ["m"], ["known-mini"], None, 0, ["openai:x"])
    plan = reproduction("table3", ["m"], ["known-mini"], None, 0)
    assert set(plan.metrics) == {"answerability"}
    assert plan == reproduction("table6", ["m"], ["known-mini"], None, 0)


def test_what_differs_is_said_of_what_was_asked_only():
    assert list(answer_differences({"soft_ns": {"metric": "soft_ns", "options": {}}})) == []
    judge = {"judge": "local:x", "prompts": 1}
    said = " ".join(answer_differences({"a": {"metric": "answerability", "options": {**OPTIONS, "share": 0.3}, "judge": judge}}))
    assert "local:x here; the paper's is Llama-3.3-70B-Instruct-Turbo" in said
    assert "Kept: 0.3 of the words" in said
    assert "isection" not in said
    options = {"form": "top1", "search": "bisection", "variant": "official"}
    said = " ".join(answer_differences({"m": {"metric": "minimum_top_p", "options": options, "judge": judge}}))
    assert "found by bisection" in said
    assert "variant=official" in said
    assert "the share at the last right answer" not in said


def test_labels_at_a_side_keep_their_order_and_distance():
    for wanted in ([0.1, 0.1, 0.1], [0.95, 0.97, 1.0], [0.0, 0.5, 1.0], []):
        found = spread_apart(wanted, 0.1)
        assert all(after - before >= 0.1 - 1e-9 for before, after in pairwise(found))
        assert all(0 <= place <= 1 for place in found)
    assert spread_apart([0.0, 0.5, 1.0], 0.1) == [0.0, 0.5, 1.0]
    name = "sequential_integrated_gradients:steps=16+baseline=zero"
    assert break_name(name).replace("\n", "") == name
    assert max(map(len, break_name("x" * 100).split("\n"))) <= 34


def judged(out, judges, model="SmolLM2"):
    """A run's folder to which the records of judges are added by hand, with what a run that asks them writes of itself."""
    written = read_created(out / RUN)
    identity, shown = written["identity"], written["shown"]
    for judge in judges:
        for name, options, better in (
            ("answerability", OPTIONS, "higher"),
            ("minimum_top_p", {"form": "top1", "search": "bisection", "variant": "paper", "words": "unicode", "seed": 0}, "lower"),
        ):
            label = name if len(judges) == 1 else f"{name}[{judge}]"
            identity["metrics"][label] = {"metric": name, "version": 1, "options": options, "judge": {"judge": judge}}
            shown["metrics"][label] = {"better": better, "relative": False, "judge": judge}
    (out / RUN).unlink()
    create_once(out / RUN, written)
    folder, lines = RunFolder.open(out), []
    for sample in RunContents(folder).samples():
        for place, trial in enumerate(
            each for each in sample.trials if each.kind == VALUE and identity["metrics"][each.metric].get("judge")
        ):
            number = int(sample.id.removeprefix("p"))
            own = record(sample.id, trial.method, float((number + place) % 3 != 0), mass=0.6, status="refused" if number == 3 else "ok")
            said = {"status": own.status, "value": own.value, "also": dict(own.extra), "message": "", "trace": ""}
            said["steps"] = [{"forms": {"top1": {"kept": {"model": model}}}}]
            if trial.metric.startswith("minimum"):
                said |= {"status": "ok", "value": 0.5, "also": {"calls": 3.0, "plain_calls": 8.0}}
            about = {"key": trial.key, "kind": VALUE, "model": sample.model, "data": sample.data, "sample": sample.id}
            lines.append(encode(about | {"method": trial.method, "metric": trial.metric} | said))
    (out / "records" / "z.jsonl").write_bytes(b"".join(lines))
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run without judges."""
    place, out = make_place(tmp_path_factory.mktemp("place")), tmp_path_factory.mktemp("runs") / "run"
    known = [{"known_id": n, "prompt": f"a{n} b", "subject": "a", "attribute": "x", "relation_id": f"P{n % 3}"} for n in range(6)]
    (place / "known.json").write_text(json.dumps(known))
    data = [{"name": "known", "path": str(place / "known.json"), "match": "none"}]
    methods = ["noiser:steps=3+samples=2", "noiser:steps=3+samples=2+bound=l2", "occlusion"]
    run(place, out, data=data, methods=methods, metrics=["soft_ns:masks=2", "soft_nc:masks=2"], controls=["random", "permuted"])
    return out


def test_a_report_has_every_table_and_figure_of_two_judges_in_every_form(begun, tmp_path):
    folder = judged(shutil.copytree(begun, tmp_path / "run"), ["local:one", "openai:two"])
    found = report(folder, only=("answerability",))
    (section,) = [each for each in found.sections if each.title == "Answerability"]
    where = "on known:match=none"
    one, two = (f"answerability[{judge}]" for judge in ("local:one", "openai:two"))
    assert [table.title for table in section.tables] == [
        f"Table 3: answerability, top-1, {where}, {one}", f"Table 6: answerability, top-5, {where}, {one}",
        f"Table 3: answerability, top-1, {where}, {two}", f"Table 6: answerability, top-5, {where}, {two}",
        f"Agreement of the judges {where}",
        f"Figure 3: minimum top-p, top-1, {where}, minimum_top_p[local:one]",
        f"Figure 3: minimum top-p, top-1, {where}, minimum_top_p[openai:two]",
        f"Figure 4: faithfulness:masks=2 against {one} {where}", f"Figure 4: faithfulness:masks=2 against {two} {where}",
    ]  # fmt: skip
    first = section.tables[0]
    rows = {row[0]: row for row in first.rows}
    assert rows["occlusion"][-2:] == paper.answerability("top1", "occlusion", "average")
    assert rows["noiser:steps=3+samples=2"][-2:] == paper.answerability("top1", "noiser", "average")
    assert rows["noiser:steps=3+samples=2+bound=l2"][-2:] == ("", ""), "the paper's judges saw no other bound"
    assert rows["all words (ceiling)"][1].startswith("1.000")
    assert rows["all words (ceiling)"][-2] == "0.84"
    assert all(len(row) == len(table.columns) for table in section.tables for row in table.rows)
    assert rows["occlusion"][first.columns.index("refused")] == "1"
    assert "local:one; answered by SmolLM2." in first.notes[0]
    assert "6 samples that every row has, 3 clusters" in first.notes[1]
    assert "Trials: 30 = 25 ok + 5 refused." in first.notes[1], "five rows, of six samples each; one refused in each"
    assert [figure.name for figure in section.figures] == ["least-0-0", "least-0-1", "against-0-0", "against-0-1"]
    assert any("found by bisection" in each for each in found.sections[-1].paragraphs)
    for form in ("md", "html", "latex"):
        shown = render(found, form)
        assert shown == render(report(RunFolder.open(tmp_path / "run"), only=("answerability",)), form), "the same records, the same bytes"
        for word in (
            "Table 3: answerability",
            "Table 6: answerability",
            "Agreement of the judges",
            "Figure 3: minimum",
            "Figure 4: faithf",
        ):
            assert word in shown
    assert "figures/against-0-1.svg" in render(found, "md")
    assert not any(each.title == "Answerability" for each in report(folder, only=("prompts",)).sections)


def test_no_judges_name_and_no_model_id_is_anybodys_markup(begun, tmp_path):
    hostile = "".join(HOSTILE)
    shown = {}
    for word, name in (("harmless", "a"), (hostile, "b")):
        out = shutil.copytree(begun, tmp_path / name)
        document = report(judged(out, [word, "other"], model=word), only=("answerability",))
        shown[word] = {form: render(document, form) for form in ("md", "html", "latex")}
    drawn = [figure.draw("svg").decode() for figure in document.figures]
    tags = []
    for each in shown.values():
        parser = Tags()
        parser.feed(each["html"])
        tags.append(parser.found)
    assert tags[0] == tags[1]
    assert len(tags[0]) > 100
    assert not any("\x1b" in each or "\u202e" in each for each in (*shown[hostile].values(), *drawn))
    assert not any("<script" in each for each in drawn)
    assert "<script" not in shown[hostile]["md"].replace("\\<", "")
    assert r"\input{x}" not in shown[hostile]["latex"]
    borders = [
        [line.count("|") - line.count("\\|") for line in each["md"].splitlines() if line.startswith("| ")] for each in shown.values()
    ]
    assert borders[0] == borders[1]
