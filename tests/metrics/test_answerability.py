"""Answerability and minimum top-p with a judge that is a lookup table: every number in closed form.

Mutants caught, each run: the lowest words kept; a share rounded down; words in the order of rank; mass of the words left out;
refusals without a value; random words of another number; a shuffle that may leave the order; ties by position; the first
wrong count for the last right one; calls of the sweep counted without the last, wrong one; the canary's word among the sample's own.
"""

from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import noiser
from noiser.errors import JudgeError, OptionError
from noiser.judges.protocol import JudgePrompt, Reply
from noiser.lm.requests import deduplicate, gather
from noiser.lm.scheduler import schedule
from noiser.lm.target import Question, resolve_target
from noiser.metrics import METRICS
from noiser.metrics.answerability import CANARIES, INSTRUCTION
from noiser.metrics.sample import MetricContext, ScoresToEvaluate
from tests.conftest import byte_tokenizer, tiny
from tests.lookup_judge import LookupJudge, needing

WORDS = ["The", "tower", "is", "in", "the", "city", "of"]
PROMPT = " ".join(WORDS)
WEIGHTS = [0.1, 0.9, -0.4, 0.2, 0.3, 0.8, 0.25]
"""By word; from the highest: tower, city, the, of, in, The, is."""
RANKED = ["tower", "city", "the", "of", "in", "The", "is"]


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama", vocab_size=259), byte_tokenizer())


def spread(lm, weights, prompt=PROMPT):
    """Token scores whose sums over the words are these."""
    return lm.prompt(prompt), noiser.text.units.units(lm.prompt(prompt), "word").spread(np.array(weights, float))


def measured(lm, name, judge, *candidates, prompt=PROMPT, target="Paris", **options):
    entry = METRICS[name]

    def asking():
        posed = yield from resolve_target(lm.tokens, lm.prompt(prompt), Question(target), None)
        sample = MetricContext(lm, *posed[0])
        parts = [entry.function(sample, ScoresToEvaluate(np.asarray(each, float)), judge, **entry.resolve(options)) for each in candidates]
        return (yield from deduplicate(gather(parts)))

    (job,) = schedule(lm, [asking()])
    if job.error:
        raise job.error
    return job.result


def one(lm, name, judge, weights=WEIGHTS, **options):
    prompt = options.pop("prompt", PROMPT)
    (found,) = measured(lm, name, judge, spread(lm, weights, prompt)[1], prompt=prompt, **options)
    return found


def shown(judge, form="top1"):
    return [clue.words for clue in judge.asked if clue.form == form]


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.1, 1), (2 / 7, 2), (0.5, 4), (4 / 7, 4), (0.6, 5), (1.0, 7)])
def test_the_highest_words_are_shown_in_the_order_of_the_prompt(lm, share, count):
    judge = LookupJudge(needing(["tower"], "Paris"))
    found = one(lm, "answerability", judge, share=share, forms="top1", checks=False)
    kept = [word for word in WORDS if word in RANKED[:count]]
    assert shown(judge) == [tuple(kept)]
    assert [found.detail["words"][place] for place in found.detail["kept"]] == kept
    assert found.value == 1.0


def test_the_mass_is_the_share_of_the_positive_scores_on_the_kept_words(lm):
    found = one(lm, "answerability", LookupJudge(needing(["tower", "city"], "Paris")), checks=False)
    positive = sum(weight for weight in WEIGHTS if weight > 0)
    assert found.detail["mass"] == pytest.approx((0.9 + 0.8 + 0.3 + 0.25) / positive)
    assert found.extra["top1.score"] == found.extra["mass"] == found.detail["mass"]
    assert found.detail["scores"] == pytest.approx(WEIGHTS)
    wrong = one(lm, "answerability", LookupJudge(needing(["is"], "Paris")), checks=False)
    assert (wrong.value, wrong.extra["top1.score"]) == (0.0, 0.0)
    assert wrong.extra["mass"] == found.extra["mass"]


def test_every_condition_is_what_it_is_called(lm):
    judge = LookupJudge(needing(["tower"], "Paris"))
    found = one(lm, "answerability", judge)
    said = found.detail["forms"]["top1"]
    kept = tuple(word for word in WORDS if word in RANKED[:4])
    assert said["kept"]["shown"] == list(kept)
    assert said["all"]["shown"] == WORDS
    assert said["none"]["shown"] == []
    assert len(said["random"]["shown"]) == 4
    assert [WORDS.index(word) for word in said["random"]["shown"]] == sorted(WORDS.index(word) for word in said["random"]["shown"])
    assert sorted(said["shuffled"]["shown"]) == sorted(kept)
    assert said["shuffled"]["shown"] != list(kept)
    assert said["canary"]["shown"] == [*WORDS, *INSTRUCTION, CANARIES[0]]
    assert (said["all"]["correct"], said["none"]["correct"]) == (True, False)
    assert said["canary"]["correct"] is False
    assert {"top1", "top1.all", "top1.none", "top1.random", "top1.shuffled", "top1.canary", "top5.all"} <= set(found.extra)


@given(st.integers(2, 9), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_shuffled_words_are_never_in_their_order(lm, count, seed):
    from noiser.metrics.answerability import _shuffled

    order = _shuffled(range(count), (1, 2, 3), seed)
    assert sorted(order) == list(range(count))
    assert order != list(range(count))


def test_what_does_not_depend_on_the_method_is_the_same_for_all(lm):
    judge = LookupJudge(needing(["tower"], "Paris"))
    two = measured(lm, "answerability", judge, spread(lm, WEIGHTS)[1], spread(lm, WEIGHTS[::-1])[1])
    for name in ("all", "none", "random", "canary"):
        assert two[0].detail["forms"]["top1"][name] == two[1].detail["forms"]["top1"][name]
    assert two[0].detail["kept"] != two[1].detail["kept"]
    assert judge.rounds == [24], "all clues of all methods go to the judge together"


def test_ties_are_drawn_at_random_the_same_for_every_method(lm):
    flat = [0.5] * len(WORDS)
    kept = [one(lm, "answerability", LookupJudge(lambda clue: "x"), flat, seed=seed, checks=False).detail["kept"] for seed in range(20)]
    assert len({tuple(each) for each in kept}) > 5
    again = one(lm, "answerability", LookupJudge(lambda clue: "x"), flat, seed=3, checks=False)
    assert again.detail["kept"] == kept[3]


@pytest.mark.parametrize("status", ["refused", "invalid_answer"])
def test_a_refusal_counts_as_wrong_and_says_what_it_is(lm, status):
    found = one(lm, "answerability", LookupJudge(lambda clue: Reply(status, (), "I'm sorry", "m")), checks=False)
    assert (found.value, found.status) == (0.0, status)
    assert found.extra[f"top1.{status.removesuffix('_answer')}"] == 1.0
    assert found.extra["top1.score"] == 0.0


def test_top_5_finds_the_word_among_five(lm):
    def knows(clue):
        return ["Rome", "Berlin", "paris.", "Oslo", "Bern"] if clue.form == "top5" else "Rome"

    found = one(lm, "answerability", LookupJudge(knows), checks=False)
    assert (found.extra["top1"], found.extra["top5"]) == (0.0, 1.0)
    assert found.value == 0.0, "the value is the first form's"
    assert one(lm, "answerability", LookupJudge(knows), forms="top5", checks=False).value == 1.0


def test_the_answer_among_the_words_is_counted(lm):
    found = one(
        lm, "answerability", LookupJudge(lambda clue: "x"), prompt="in paris the tower is", weights=[0.1, 0.9, 0.2, 0.3, 0.1], checks=False
    )
    assert found.extra["given"] == 1.0
    assert found.detail["given"]


def test_a_canary_is_no_word_of_the_sample(lm):
    prompt = "a xylophone is made of"
    judge = LookupJudge(lambda clue: clue.words[-1] if clue.words[-6:-1] == INSTRUCTION else "wood")
    found = one(lm, "answerability", judge, prompt=prompt, weights=[0.1, 0.9, 0.2, 0.3, 0.1], target="wood")
    assert found.detail["forms"]["top1"]["canary"]["shown"][-1] == CANARIES[1]
    assert found.extra["top1.canary"] == 1.0, "a judge that obeys is seen to obey"


def test_official_is_exact_and_an_empty_reply_has_no_value(lm):
    assert one(lm, "answerability", LookupJudge(lambda clue: "paris"), variant="official", checks=False).value == 0.0
    assert one(lm, "answerability", LookupJudge(lambda clue: "Paris"), variant="official", checks=False).value == 1.0
    empty = one(lm, "answerability", LookupJudge(lambda clue: Reply("ok", (), "", "m")), variant="official", checks=False)
    assert (empty.value, empty.reason) == (None, "the judge's reply is empty")


@pytest.mark.parametrize(("prompt", "target", "reason"), [(" \n ", "Paris", "no words"), (PROMPT, " ,", "neither letters nor digits")])
def test_what_cannot_be_asked_is_undefined(lm, prompt, target, reason):
    judge = LookupJudge(lambda clue: "x")
    (found,) = measured(lm, "answerability", judge, np.ones(len(lm.prompt(prompt))), prompt=prompt, target=target)
    assert found.value is None
    assert reason in found.reason
    assert not judge.asked


def test_treebank_words(lm):
    judge = LookupJudge(lambda clue: "x")
    prompt = 'He said "it\'s" here'
    measured(
        lm, "answerability", judge, np.ones(len(lm.prompt(prompt))), prompt=prompt, words="treebank", share=1, checks=False, forms="top1"
    )
    assert shown(judge) == [("He", "said", '"', "it", "'s", '"', "here")]


def sweep(knows, words, ranked, gold):
    """The paper's words as a loop: drop the lowest until the answer is wrong; the last right count, and all calls."""
    count, calls = len(words), 1
    if knows(tuple(words)) != gold:
        return None, calls
    while count > 1:
        calls += 1
        if knows(tuple(word for word in words if word in ranked[: count - 1])) != gold:
            break
        count -= 1
    return count, calls


@pytest.mark.parametrize("needed", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("search", ["bisection", "sweep"])
def test_minimum_top_p_in_closed_form(lm, needed, search):
    judge = LookupJudge(needing(RANKED[:needed], "Paris"))
    found = one(lm, "minimum_top_p", judge, search=search)
    assert found.value == pytest.approx(needed / 7)
    assert found.detail["kept"] == needed
    count, calls = sweep(lambda words: judge.knows(JudgePrompt(words, "top1")), WORDS, RANKED, "Paris")
    assert count == needed
    assert found.extra["plain_calls"] == calls
    assert found.extra["calls"] == len(judge.asked) == (calls if search == "sweep" else found.extra["calls"])
    assert found.extra["saved"] == calls - len(judge.asked)
    if search == "bisection":
        assert len(judge.asked) <= 1 + ceil(log2(7))


def test_a_sample_wrong_with_all_words_is_out(lm):
    judge = LookupJudge(lambda clue: "x")
    found = one(lm, "minimum_top_p", judge)
    assert (found.value, found.reason) == (None, "wrong with all words")
    assert len(judge.asked) == 1


def test_bisection_and_sweep_differ_where_answers_are_not_monotone(lm):
    """Right with 7, 6 and with 1 to 3 words, wrong with 4 and 5: the sweep stops at 6, bisection may find 1."""

    def knows(clue):
        return "Paris" if len(clue.words) not in (4, 5) else "x"

    assert one(lm, "minimum_top_p", LookupJudge(knows), search="sweep").detail["kept"] == 6
    assert one(lm, "minimum_top_p", LookupJudge(knows)).detail["kept"] == 1


@given(st.lists(st.booleans(), min_size=7, max_size=7))
@settings(max_examples=60, deadline=None)
def test_bisection_always_ends_between_a_right_and_a_wrong_answer(lm, right):
    judge = LookupJudge(lambda clue: "Paris" if right[len(clue.words) - 1] else "x")
    found = one(lm, "minimum_top_p", judge)
    if not right[6]:
        assert found.value is None
        return
    kept = found.detail["kept"]
    assert right[kept - 1]
    assert kept == 1 or not right[kept - 2]


@pytest.mark.parametrize(("needed", "share"), [(1, 1.0), (3, 2 / 7), (7, 6 / 7)])
def test_official_minimum_top_p_is_the_first_wrong_share(lm, needed, share):
    found = one(lm, "minimum_top_p", LookupJudge(needing(RANKED[:needed], "Paris")), variant="official")
    assert found.value == pytest.approx(share)


def test_an_evaluation_asks_each_judge_and_isolates_what_one_does_not_answer(lm):
    def knows(clue):
        return JudgeError("no reply within 5 s") if len(clue.words) == 4 else "Paris"

    sure, shaky = LookupJudge(lambda clue: "Paris", "table:sure"), LookupJudge(knows, "table:shaky")
    examples = [noiser.Example(PROMPT, "Paris", "a"), noiser.Example("one two three four", "Paris", "b")]
    found = noiser.evaluate(
        lm, examples, ["occlusion"], ["answerability", "minimum_top_p", "deletion"], controls=["random"], judges=[sure, shaky]
    )
    assert {gauge.label for gauge in found.metrics} == {
        "answerability[table:sure]", "answerability[table:shaky]", "minimum_top_p[table:sure]", "minimum_top_p[table:shaky]", "deletion",
    }  # fmt: skip
    assert found.statuses == {"ok": 16, "error(JudgeError)": 4}
    assert {record.message for record in found.records if record.status != "ok"} == {"no reply within 5 s"}
    assert (sure.checked, shaky.checked) == (1, 1)
    assert found.judges["table:sure"]["clues"] == len(sure.asked)
    deleted = [record for record in found.records if record.metric == "deletion"]
    assert len(deleted) == 4, "the judge's silence costs no other metric anything"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda clues: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda clues: None, "a list of 2 replies, one for each prompt; it returned NoneType"),
        (lambda clues: [Reply("ok", ("Paris",), "Paris", "m")] * (len(clues) + 1), "it returned 3 of them"),
        (lambda clues: ["Paris"] * len(clues), "a Reply or a JudgeError; it returned 'Paris'"),
        (lambda clues: [_reply(status="bogus") for _ in clues], "a Reply or a JudgeError; it returned"),
        (lambda clues: [_reply(answers="Paris") for _ in clues], "a Reply or a JudgeError; it returned"),
    ],
)
def test_a_judge_of_ones_own_that_misbehaves_costs_its_own_metric_alone(lm, answer, said):
    judge = LookupJudge(None)
    judge.answer = answer
    found = noiser.evaluate(
        lm, [noiser.Example(PROMPT, "Paris")], ["occlusion"], ["answerability:checks=false", "deletion"], controls=[], judges=[judge]
    )
    assert found.statuses == {"error(JudgeError)": 1, "ok": 1}
    assert said in next(record.message for record in found.records if record.status != "ok")


def _reply(**odd):
    """A Reply with fields that its own checks would not let through."""
    reply = Reply("ok", ("Paris",), "Paris", "m")
    for name, value in odd.items():
        object.__setattr__(reply, name, value)
    return reply


def test_what_the_judge_does_not_answer_beside_the_kept_words_is_left_out(lm):
    def knows(clue):
        return JudgeError("filtered") if "Ignore" in clue.words or clue.form == "top5" else "Paris"

    found = one(lm, "answerability", LookupJudge(knows))
    assert found.value == 1.0
    assert set(found.detail["forms"]) == {"top1"}
    assert "canary" not in found.detail["forms"]["top1"]
    assert "top1.all" in found.extra
    assert not {name for name in found.extra if name.startswith("top5") or "canary" in name}
    assert found.detail["failed"]["top1.canary"] == "filtered"
    assert len(found.detail["failed"]) == 7
    with pytest.raises(JudgeError, match="filtered"):
        one(lm, "answerability", LookupJudge(lambda clue: JudgeError("filtered") if len(clue.words) == 4 else "Paris"))


def test_clues_of_all_samples_and_methods_are_asked_together(lm):
    judge = LookupJudge(lambda clue: "Paris")
    examples = [noiser.Example(f"{word} is in the city of", "Paris") for word in ("It", "Here", "That", "This")]
    noiser.evaluate(lm, examples, ["occlusion"], ["answerability"], controls=["random", "recency"], judges=[judge])
    assert judge.rounds == [4 * 3 * 12]


def test_means_over_a_continuation_are_means_of_each_number(lm):
    judge = LookupJudge(lambda clue: "x")
    found = noiser.evaluate(
        lm, [noiser.Example(PROMPT)], ["occlusion"], ["answerability:checks=false"], controls=[], generate=3, judges=[judge]
    )
    (record,) = found.records
    if record.status == "ok":
        assert record.extra["mass"] == pytest.approx(np.mean([step["mass"] for step in record.steps]))
    else:
        assert record.status == "undefined", "an explained byte may have no letter"


def test_judges_that_nobody_asks_and_judges_that_come_twice_are_refused(lm):
    with pytest.raises(OptionError, match="asks a judge"):
        noiser.evaluate(lm, [PROMPT], ["occlusion"], ["deletion"], judges=[LookupJudge(lambda clue: "x")])
    with pytest.raises(OptionError, match="each once"):
        noiser.evaluate(lm, [PROMPT], ["occlusion"], ["answerability"], judges=[LookupJudge(None), LookupJudge(None)])
