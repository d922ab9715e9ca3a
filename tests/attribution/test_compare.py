"""`noiser.compare`, `noiser compare`, `noiser methods`: the same tokens and target for each, and figures that add up.

Mutants caught: each method continuing the prompt by itself; agreement over tokens that do not come before the target; ranks
ascending in the top three; ties broken by chance; METHOD.NAME given to every method; a failure that takes the others along;
an option that no method has passed over; the exit status 0 after a failure; options in a label
ignored, the same row twice, a label lost in a pickle.
"""

import json
import pickle

import numpy as np
import pytest
from scipy.stats import spearmanr

import noiser
from noiser import cli
from noiser.errors import OptionError
from noiser.lm.target import Question
from noiser.methods import parse
from noiser.results.scores import spearman, top_overlap
from tests.conftest import tiny

PROMPT = (7, 200, 31, 150, 31, 99)


@pytest.fixture
def lm(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer, name="tiny")


def test_all_explain_the_same_and_equal_a_run_alone(lm):
    found = noiser.compare(lm, PROMPT, {"occlusion": {"baseline": "unk"}, "lime": {"samples": 20}, "uniform": {}}, target=9, foil=11)
    assert [each.method for each in found.attributions] == ["occlusion", "lime", "uniform"]
    assert {each.targets for each in found.attributions} == {found.attributions[0].targets}
    alone = noiser.attribute(lm, PROMPT, "occlusion", 9, foil=11, baseline="unk")
    np.testing.assert_allclose(found.attributions[0].scores, alone.scores, atol=1e-7)
    assert found.attributions[1].options["samples"] == 20


def test_a_generated_continuation_is_generated_once(lm, monkeypatch):
    calls = []
    generate = lm.generate
    monkeypatch.setattr(lm, "generate", lambda *given: calls.append(given) or generate(*given))
    found = noiser.compare(lm, PROMPT, ["occlusion", "recency"], generate=3)
    assert len(calls) == 1
    assert found.attributions[0].prompt.input_ids == found.attributions[1].prompt.input_ids
    assert found.attributions[0].scores.shape == (3, len(PROMPT) + 2)


def test_one_method_stands_in_several_rows(lm):
    labels = ["occlusion", "occlusion:baseline=unk", "uniform"]
    found = noiser.compare(lm, PROMPT, labels)
    assert [(each.label, each.method) for each in found.attributions] == list(
        zip(labels, ["occlusion", "occlusion", "uniform"], strict=True)
    )
    assert found.attributions[1].options["baseline"] == "unk"
    assert not np.array_equal(found.attributions[0].scores, found.attributions[1].scores)
    assert found.to_dict()["methods"] == labels
    assert ["label" in each for each in found.to_dict()["attributions"]] == [False, True, False], "only where it is not the method's name"
    alone = noiser.attribute(lm, PROMPT, "occlusion:baseline=unk")
    np.testing.assert_array_equal(alone.scores, found.attributions[1].scores)
    assert pickle.loads(pickle.dumps(alone)).label == alone.label == "occlusion:baseline=unk"


def test_parsed_methods_and_questions_are_taken_as_they_are(lm):
    spec, question = parse("lime:samples=20", {"seed": 3}), Question(9, foil=11)
    assert (spec.label, spec.name, spec.options["samples"], spec.options["seed"]) == ("lime:samples=20", "lime", 20, 3)
    (found,) = noiser.compare(lm, PROMPT, [spec], question).attributions
    expected = noiser.attribute(lm, PROMPT, "lime", 9, foil=11, samples=20, seed=3)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert parse("lime", seed=5).options["seed"] == 5 and parse("lime:seed=1", seed=5).options["seed"] == 1
    with pytest.raises(OptionError, match="lime:samples=20 is parsed already: set seed before you parse it"):
        noiser.attribute(lm, PROMPT, spec, seed=4)
    with pytest.raises(OptionError, match="the target is a Question, which holds foil itself"):
        noiser.attribute(lm, PROMPT, spec, question, foil=12)
    with pytest.raises(OptionError, match="lime:samples=20 sets samples to 20, but samples is also set to 30"):
        noiser.attribute(lm, PROMPT, "lime:samples=20", samples=30)


def test_agreement_is_spearmans_and_the_share_of_the_top_three():
    one, other = np.array([[3.0, 1.0, 2.0, 0.5, 9.0]]), np.array([[1.0, 0.2, 3.0, 0.1, -9.0]])
    assert spearman(one, other, [5]) == pytest.approx(spearmanr(one[0], other[0]).statistic)
    assert spearman(one, other, [4]) == pytest.approx(spearmanr(one[0, :4], other[0, :4]).statistic)
    assert spearman(one, other, [5]) != pytest.approx(spearman(one, other, [4]))
    assert top_overlap(one, other, [5]) == pytest.approx(2 / 3)
    assert top_overlap(one, other, [4]) == 1
    assert top_overlap(one, other, [2]) == 1
    assert top_overlap(one, other, [1]) is None
    assert spearman(one, np.ones((1, 5)), [5]) is None
    ties = np.array([[1.0, 1.0, 1.0, 1.0, 0.0]])
    assert top_overlap(ties, np.array([[3.0, 2.0, 1.0, 0.0, 0.0]]), [5]) == 1, "ties go to the earlier token"
    assert top_overlap(np.zeros((1, 5)), one, [5]) is None


def test_one_refusal_costs_the_others_nothing(tokenizer):
    lm = noiser.LanguageModel(tiny("falcon"), tokenizer)
    found = noiser.compare(lm, PROMPT, ["last_attention", "occlusion"])
    assert [each.method for each in found.attributions] == ["occlusion"]
    assert "eager" in found.failures["last_attention"]
    with pytest.raises(noiser.errors.ModelError):
        noiser.compare(lm, PROMPT, ["last_attention", "attention_rollout"])


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ([], "at least one"),
        (["lime", "lime"], "once"),
        (["lime", "lime:seed=0"], "lime and lime:seed=0 are the same method with the same options"),
        ("lime", "a sequence"),
        (["limes"], "there are"),
        ({"lime": {"x": 1}}, "no option 'x'"),
    ],
)
def test_methods_that_make_no_sense_are_refused(lm, methods, said):
    with pytest.raises(OptionError, match=said):
        noiser.compare(lm, PROMPT, methods)


def test_print_shows_every_method_agreement_and_cost(lm):
    shown = str(noiser.compare(lm, PROMPT, ["occlusion", "recency"]))
    for expected in ("occlusion", "recency", "Spearman", "top 3", "token-forwards", "+1.0000"):
        assert expected in shown


@pytest.fixture
def run(monkeypatch, capfd, lm):
    def call(*arguments):
        monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: lm)
        monkeypatch.setattr("sys.argv", ["noiser", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capfd.readouterr()

    return call


def test_the_command_writes_one_strict_object(run):
    code, out, _ = run(
        *("compare", "abc d", "--methods", "occlusion,lime", "--set", "lime.samples=9", "--set", "baseline=unk", "--seed", 3),
        *("--format", "json", "--granularity", "word", "--normalize", "abs_l1"),
    )
    record = json.loads(out)
    assert code == 0
    assert record["methods"] == ["occlusion", "lime"]
    assert np.shape(record["agreement"]["spearman"]) == (2, 2)
    assert [each["options"]["baseline"] for each in record["attributions"]] == ["unk", "unk"]
    assert record["attributions"][1]["options"]["samples"] == 9
    assert [each["seed"] for each in record["attributions"]] == [None, 3]
    for each in record["attributions"]:
        assert each["by"]["texts"] == ["abc", "d"]
        assert np.abs(each["normalized"]["scores"]).sum() == pytest.approx(1)
        assert np.sum(each["by"]["scores"]) + np.sum(each["by"]["rest"]) == pytest.approx(np.sum(each["scores"]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("abc", "--set", "samples=9", "--methods", "occlusion"), "none of occlusion has an option 'samples'"),
        (("abc", "--set", "lime.samples=9", "--methods", "occlusion"), "'lime' is not among"),
        (("abc", "--methods", "lime,lime"), "came twice"),
        (("--methods", "lime"), "give either a prompt or --messages"),
        (("abc", "--target", "a", "--generate", "2"), "give one of target"),
        (("abc", "--span", "1:2"), "a span is part of a continuation"),
        (("abc", "--span", "x"), "FROM:TO"),
        (("abc", "--granularity", "page"), "--granularity must be one of"),
        (("abc", "--quantity", "log_odds"), "the quantity of a target is"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(run, arguments, said):
    code, out, err = run("compare", *arguments)
    assert code == 2
    assert out == ""
    assert said in err


def test_the_command_says_which_method_failed(run, tokenizer, monkeypatch):
    falcon = noiser.LanguageModel(tiny("falcon"), tokenizer)
    monkeypatch.setattr("noiser.attribution.compare.compare", lambda _, *given, **asked: noiser.compare(falcon, *given, **asked))
    code, out, _ = run("compare", "abc", "--methods", "last_attention,occlusion")
    assert code == 1
    assert "last_attention failed" in out
    assert "occlusion" in out


def test_methods_lists_each_with_options_cost_and_source(run):
    _, out, _ = run("methods", "--format", "json")
    listed = {each["name"]: each for each in json.loads(out)["methods"]}
    assert set(listed) == set(noiser.METHODS)
    assert listed["noiser"]["options"]["samples"] == 10
    assert all(each["cost"] and each["source"] and each["summary"] for each in listed.values())
    code, table, _ = run("methods")
    assert code == 0
    assert all(name in table for name in listed)
