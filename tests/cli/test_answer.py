"""`noiser answer`: one case as the paper's figure 1 has it, whatever the prompt and the judge say.

Mutants caught, each run: the marks put at a word's first occurrence instead of its own; the target without its space, or with one
after a prompt that ends in one; the method's options taken for the metric's; exit 0 where a judge gave no verdict, or 1 where the
verdict is no; a reply, prompt or judge's name printed as it came; the judge asked too late; the second form's or judge's verdict on
top of the JSON; the address repeated in its error.
"""

import json
from dataclasses import replace
from importlib import import_module

import pytest

import noiser
from noiser import cli
from noiser.cli.options import JudgeOptions
from noiser.errors import JudgeError, OptionError, RunError
from noiser.evaluation.answer import answer, answer_ids
from noiser.judges.parsing import parse_reply
from noiser.judges.protocol import JudgeConfig, Reply
from noiser.results.answer_case import Case, Ruling
from noiser.text.prompt import Turn
from noiser.views.terminal.answer_case import render_case, to_text
from tests.conftest import byte_tokenizer, tiny

import_module("noiser.judges.local")  # imported under a patched loader, it would keep the patch
PROMPT = "The king of the city of"
FAST = ("--method", "input_x_gradient", "--target", "Paris")
EVIL = "\x1b[31mParis [bold]x[/bold]\x07"


class TableJudge:
    """Says what a function of the clue says."""

    def __init__(self, says, name="local:table", up=True):
        self.says, self.name, self.up = says, name, up
        self.identity, self.counts = {"judge": "table"}, {"clues": 0, "cached": 0, "calls": 0}

    def check(self):
        if not self.up:
            raise RunError(f"nobody answers for {self.name}")

    def answer(self, clues):
        return [self._reply(clue, self.says(clue)) for clue in clues]

    def _reply(self, clue, said):
        if isinstance(said, Exception):
            return said
        status, answers = parse_reply(said, "stop", clue, structured=False)
        return Reply(status, answers, said, "table-1")


def knows(clue):
    """Names Paris from two words on; the order hidden among the words is not followed."""
    return "Rome" if len(clue.words) < 2 else "Paris" if clue.form == "top1" else "Rome, Paris"


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer(), name="tiny")


@pytest.fixture
def run(lm, monkeypatch, capfd):
    """The command line on a tiny model and with judges of our own: exit status, standard output, standard error."""
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: lm)

    def called(*arguments, judges=None):
        own = [TableJudge(knows)] if judges is None else judges
        if own:
            monkeypatch.setattr("noiser.evaluation.spec.select_judges", lambda *_: list(own))
        monkeypatch.setattr("sys.argv", ["noiser", "answer", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            raise SystemExit(0)
        shown = capfd.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return called


def found(run, *arguments, **more):
    code, out, _ = run(*arguments, "--format", "json", **more)
    return code, json.loads(out, parse_constant=pytest.fail)


def test_the_case_shows_what_was_kept_seen_and_said(run):
    code, out, _ = run(PROMPT, *FAST)
    assert code == 0
    assert "Why ' Paris'?" in out
    lines = out.splitlines()
    assert lines[2].count("[") == lines[2].count("]") == 3
    assert lines[2].replace("[", "").replace("]", "").strip() == f"{PROMPT}  \u2192 Paris"
    for wanted in (
        "[kept]: the 3 of 6 words that score highest by input_x_gradient; their share of all scores is",
        "Judge local:table (table-1): the kept words are enough for 'Paris'",
        "asked for one word",
        "asked for five words",
        "the kept words: ",
        "all 6 words",
        "no words",
        "right: Paris",
        "right: Rome \u00b7 Paris",
        "wrong: Rome",
        "random words: ",
        "not obeyed: Paris",
    ):
        assert wanted in out, wanted
    assert "\x1b" not in out


def test_json_is_strict_and_its_top_is_the_first_judges_first_form(run):
    other = TableJudge(lambda clue: "Rome" if clue.form == "top1" else "Paris, Rome", "openai:other")
    code, case = found(run, PROMPT, *FAST, judges=[TableJudge(knows), other])
    assert code == 0
    assert (case["schema"], case["correct"], case["status"], case["answers"], case["judge"]) == (1, True, "ok", ["Paris"], "local:table")
    assert (case["prompt"], case["gold"], case["model"], case["method"]["name"]) == (PROMPT, "Paris", "tiny", "input_x_gradient")
    assert case["words"] == PROMPT.split()
    assert len(case["scores"]) == 6
    best = sorted(sorted(range(6), key=lambda place: -case["scores"][place])[:3])
    assert case["kept_places"] == best
    assert case["kept"] == [case["words"][place] for place in best]
    assert case["judges"][0]["forms"]["top5"]["kept"]["answers"] == ["Rome", "Paris"]
    assert set(case["judges"][0]["forms"]["top1"]) == {"kept", "shuffled", "all", "none", "random", "canary"}
    assert [each["correct"] for each in case["judges"]] == [True, False]
    assert case["judges"][1]["forms"]["top5"]["kept"]["correct"] is True


@pytest.mark.parametrize(
    ("said", "code", "status", "correct", "shown"),
    [
        ("Rome", 0, "ok", False, "not enough for 'Paris'"),
        ("I'm sorry, but I cannot help.", 0, "refused", False, "not enough for 'Paris', for it refused to answer"),
        ("It may well be some town or other.", 0, "invalid_answer", False, "for its reply holds no answer"),
        (JudgeError("no reply after 300 s"), 1, "error(JudgeError)", None, "no verdict, error(JudgeError): no reply after 300 s"),
    ],
)
def test_only_the_lack_of_a_verdict_is_a_failure(run, said, code, status, correct, shown):
    judges = [TableJudge(lambda _: said)]
    ended, out, _ = run(PROMPT, *FAST, judges=judges)
    assert ended == code
    assert shown in " ".join(out.split())
    ended, case = found(run, PROMPT, *FAST, judges=judges)
    assert (ended, case["status"], case["correct"]) == (code, status, correct)


def test_a_judge_that_fails_does_not_hide_what_another_says(run):
    judges = [TableJudge(lambda _: JudgeError("gone"), "openai:gone"), TableJudge(knows)]
    code, out, _ = run(PROMPT, *FAST, judges=judges)
    assert code == 1
    assert "Judge openai:gone: no verdict" in out
    assert "are enough for 'Paris'" in out
    assert "[kept]: the 3 of 6 words" in out


def test_a_judge_that_cannot_be_asked_is_known_before_the_model_works(run, monkeypatch):
    monkeypatch.setattr("noiser.evaluation.answer.attribute", lambda *_, **__: pytest.fail("the model worked"))
    code, out, err = run(PROMPT, *FAST, judges=[TableJudge(knows, "openai:none", up=False)])
    assert (code, out) == (1, "")
    assert "nobody answers for openai:none" in err


def test_an_explained_token_that_is_no_word_has_no_verdict(run, lm):
    code, out, _ = run(PROMPT, "--method", "input_x_gradient", "--target", f"id:{lm.tokens.ids('!')[0]}")
    assert code == 1
    assert "no verdict, undefined: the explained word has neither letters nor digits" in out


def test_what_a_prompt_or_a_judge_says_cannot_steer_the_terminal(run):
    judges = [TableJudge(lambda _: f"some long reply {EVIL}", f"local:{EVIL}")]
    last, one = ("--method", "recency", "--target", "Paris"), ("--share", "0.1", "--forms", "top1")
    shown = [run(prompt, *last, *one, judges=judges) for prompt in (f"{EVIL} a", f"a {EVIL}\x07 \x1b")]
    out = "".join(text for _, text, _ in [*shown, run(f"{EVIL} a", *last, "--share", "1", judges=judges)])
    assert {code for code, *_ in shown} == {0}
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\\x1b[31m" in out
    assert out.count("[bold]") >= 3


def test_marks_are_none_that_the_prompt_has(run):
    assert "{kept}: the" in run("a [b] c", *FAST)[1]
    assert "\u00abkept\u00bb: the" in run("a [b] {c} d", *FAST)[1]


def test_it_fits_eighty_columns_and_long_replies_are_clipped(lm):
    long = TableJudge(lambda clue: "word " * 400)
    case = answer(lm, "The long and winding " * 2, "Paris", "input_x_gradient", judges=[long, TableJudge(knows, "openai:another")])
    text = to_text(case, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text) < 8000
    assert str(case) == to_text(case) or not str(case).startswith("Why")
    assert render_case(case) is not None


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("The king of", "Paris", " Paris"),
        ("The king of", " Paris", " Paris"),
        ("The king of ", "Paris", "Paris"),
        ("a\n", "Paris", "Paris"),
    ],
)
def test_the_space_before_the_answer_is_put_there(lm, prompt, target, text):
    assert answer_ids(lm, lm.prompt(prompt), target) == lm.tokens.ids(text)


def test_ids_are_taken_as_they_are_and_a_blank_word_is_none(lm):
    prompt = lm.prompt("a")
    assert answer_ids(lm, prompt, (70, 71)) == (70, 71)
    assert answer_ids(lm, prompt, None) is None
    with pytest.raises(OptionError, match="the target must be a word; got ' '"):
        answer_ids(lm, prompt, " ")


def test_the_models_own_prediction_by_default(lm):
    case = answer(lm, PROMPT, None, "input_x_gradient", judges=[TableJudge(knows)], checks=False)
    assert case.attribution.target.rank == 0
    assert len(case.attribution.target.token_ids) == 1


def test_a_word_is_marked_where_it_stands_not_where_it_came_first(lm):
    case = answer(lm, PROMPT, "Paris", "recency", judges=[TableJudge(knows)], share=0.2, checks=False)
    assert case.kept == ("city", "of")
    assert list(case.spans) == [(16, 20), (21, 23)]
    assert "The king of the [city] [of]" in to_text(case)


def test_in_a_chat_only_messages_are_marked(lm):
    plain = answer(lm, "user user x", "Paris", "recency", judges=[TableJudge(knows)], share=0.0, checks=False)
    prompt = replace(plain.attribution.prompt, turns=(Turn("user", tuple(range(5, 11))),))
    detail = {"words": ["user"], "scores": [1.0], "kept": [0], "mass": 1.0}
    case = Case(replace(plain.attribution, prompt=prompt), plain.options, (Ruling("local:table", "ok", "", detail),))
    assert [case.attribution.prompt.text[start:stop] for start, stop in case.spans] == ["user"]
    assert next(case.spans)[0] >= 4


def test_options_of_method_and_metric_do_not_mix(run):
    _, case = found(run, PROMPT, "--target", "Paris", "--set", "variant=official", "--set", "samples=2", "--set", "seed=7", "--seed", "3")
    assert (case["method"]["options"]["variant"], case["method"]["options"]["samples"], case["method"]["seed"]) == ("official", 2, 7)
    assert (case["options"]["variant"], case["options"]["seed"]) == ("paper", 3)
    _, case = found(run, PROMPT, "--target", "Paris", "--variant", "official", "--seed", "3", "--set", "samples=2", "--set", "steps=2")
    assert (case["method"]["options"]["variant"], case["method"]["seed"], case["options"]["variant"]) == ("paper", 3, "official")


def test_without_checks_the_kept_words_alone_are_shown(run):
    _, case = found(run, PROMPT, *FAST, "--no-checks", "--forms", "top5", "--share", "1")
    assert {form: list(own) for form, own in case["judges"][0]["forms"].items()} == {"top5": ["kept"]}
    assert case["kept"] == PROMPT.split()
    assert case["correct"] is True


@pytest.mark.parametrize(
    ("says", "prompt", "doubt"),
    [
        (lambda _: "Paris", PROMPT, "local:table gives this answer without any words, too"),
        (lambda clue: "Paris" if clue.words else "Rome", PROMPT, "gives this answer from as many random words, too"),
        (lambda clue: clue.words[-1] if "answer" in clue.words else "Rome", PROMPT, "local:table obeys an instruction hidden"),
        (knows, "Paris Paris Paris", "the answer itself is among the kept words"),
    ],
)
def test_what_makes_an_answer_say_little_is_said(run, says, prompt, doubt):
    assert f"{doubt}" in run(prompt, *FAST, judges=[TableJudge(says)])[1]


def test_a_file_gets_it_instead(run, tmp_path):
    code, out, _ = run(PROMPT, *FAST, "--format", "json", "--out", tmp_path / "case.json")
    assert (code, out) == (0, "")
    assert json.loads((tmp_path / "case.json").read_text())["correct"] is True


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--share", "1.5"), "share"),
        (("--forms", "top3"), "forms"),
        (("--variant", "paper2"), "variant"),
        (("--method", "magic"), "magic"),
        (("--set", "width=3"), "width"),
        (("--judge", "oracle"), "oracle"),
        (("--judge", "local,local"), "came twice"),
        (("--judge-cache", "maybe"), "--judge-cache must be one of use, only, off; got 'maybe'"),
        (("--judge-timeout", "0"), "--judge-timeout is a number of seconds above 0; got 0"),
        (("--judge-total-timeout", "nan"), "--judge-total-timeout is a number of seconds above 0; got nan"),
        (("--judge", "openai:x", "--judge-url", "localhost:8000"), "--judge-url wants a URL that begins with http://"),
        (("--format", "html"), "--format"),
    ],
)
def test_what_does_not_exist_or_fit_is_said_before_weights_are_read(run, monkeypatch, wrong, said):
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: pytest.fail("weights were read"))
    code, out, err = run(PROMPT, *wrong, judges=())
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("url", ["http://me:hunter2@host/v1", "https://host/v1?key=hunter2", "http://hunter2@host", "ftp://hunter2"])
def test_an_address_with_a_secret_is_refused_without_repeating_it(url):
    with pytest.raises(OptionError) as raised:
        JudgeOptions(judge_url=url).config("auto")
    assert "hunter2" not in str(raised.value)


def test_how_to_ask_is_handed_on():
    options = JudgeOptions(
        judge_url="http://[::1]:80/v1", judge_cache="only", judge_max_connections=2, judge_timeout=1.5, judge_total_timeout=9.0
    )
    assert options.config("cpu") == JudgeConfig(
        url="http://[::1]:80/v1", cache="only", max_connections=2, timeout=1.5, total_timeout=9.0, device="cpu"
    )
    assert JudgeOptions().config("auto") == JudgeConfig()


@pytest.mark.slow
def test_the_default_model_explains_and_judges(monkeypatch, capfd):
    """No network, no key: whatever the small judge says, the case is whole and one can see what it said."""
    asked = ("--target", "Paris", "--method", "input_x_gradient", "--forms", "top1", "--no-checks", "--judge-cache", "off")
    monkeypatch.setattr("sys.argv", ["noiser", "answer", "The capital of France is the city of", *asked, "--format", "json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
        raise SystemExit(0)
    case = json.loads(capfd.readouterr().out)
    reply = case["judges"][0]["forms"]["top1"]["kept"]
    assert not ended.value.code
    assert case["judge"] == "local:smollm2-135m"
    assert (len(case["kept"]), case["gold"], case["rank"]) == (4, "Paris", 0)
    assert reply["shown"] == case["kept"]
    assert reply["said"]
    assert case["status"] in ("ok", "refused", "invalid_answer")
