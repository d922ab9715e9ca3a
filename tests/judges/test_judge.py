"""A judge on top of any backend: each question is asked once, what was heard is kept at once, and can be replayed to the letter.

The effect without our code: the scripted backend answers whatever it is asked, as often as it is asked, and forgets. Mutants caught,
each one line: no memory of what was heard; equal calls of unequal clues made twice; a second ask after a refusal; a third ask; kept
only when all were heard; refusals served as answers with `use`; refusals left out with `only`; the old model's entries counted after
the server said another id; all misses asked before the server said who it is; `only` that looks at the last model alone; the trial
made anew although the cache knows it; a failed write swallowed by a backend;
no more room for a thought that was cut off.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import pytest

import noiser
import noiser.storage as store
from noiser.errors import JudgeError, OptionError, RunError
from noiser.judges import factory
from noiser.judges.backend import Completion
from noiser.judges.cache import ReplyCache
from noiser.judges.factory import judge_name, open_judge
from noiser.judges.judge import CachedJudge
from noiser.judges.protocol import Judge, JudgeConfig, JudgePrompt, Reply
from tests.scripted_backend import CLUES, ScriptedBackend, Untouchable, moody, word, words_of


def echo(messages):
    return word(f"after {words_of(messages)[-1]}")


def clue(*words, form="top1", variant="paper"):
    return JudgePrompt(words, form, variant)


@pytest.fixture
def asker(tmp_path):
    """An CachedJudge on a backend, by default with the cache of this test, opened anew as another process would."""

    def make(backend, mode="use"):
        return CachedJudge(backend, ReplyCache(backend.identity, tmp_path / "cache"), mode)

    return make


def plain(replies):
    """Replies without how many calls they took."""
    return [dataclasses.replace(each, calls=0) if isinstance(each, Reply) else str(each) for each in replies]


# One session


def test_a_clue_is_asked_and_its_reply_read(asker):
    backend = ScriptedBackend(echo)
    judge = asker(backend)
    assert isinstance(judge, Judge)
    assert (judge.name, judge.identity) == ("openai:scripted", {"judge": "openai:scripted"})
    assert judge.answer([clue("a", "b")]) == [Reply("ok", ("after b",), word("after b"), "m-1", 1)]
    (call,) = backend.asked
    assert call.schema is not None
    assert call.max_tokens > 0
    assert judge.counts == {"clues": 1, "cached": 0, "refused": 0, "invalid_answer": 0, "calls": 1}
    assert judge.answer([]) == []


@pytest.mark.parametrize("mode", ["use", "off"])
def test_equal_clues_and_equal_calls_are_asked_once_whatever_the_batch(asker, mode):
    backend = ScriptedBackend(lambda messages: "one two three" if len(words_of(messages)) == 1 else echo(messages))
    judge = asker(backend, mode)
    official = [clue("a", form=form, variant="official") for form in ("top1", "top5")]
    first = judge.answer([clue("a", "b"), clue("a", "c"), clue("a", "b"), *official])
    assert [each.calls for each in first] == [1, 1, 1, 1, 0]
    assert first[3].answers == first[4].answers == ("one", "two", "three")
    assert len(backend.asked) == 3
    again = judge.answer([clue("a", "c"), clue("b", "a"), official[1]])
    assert [each.calls for each in again] == [0, 1, 0]
    assert plain(again)[0] == plain(first)[1]
    assert len(backend.asked) == 4, "the order of the words matters, and nothing else was new"
    assert judge.counts == {"clues": 5, "cached": 1, "refused": 0, "invalid_answer": 0, "calls": 4}


def test_no_answer_is_asked_again_exactly_once_and_a_refusal_is_not(asker):
    told = {
        ("good",): [word("yes")],
        ("late",): ["I think that it may well be the word yes.", word("yes")],
        ("never",): ["", "{", word("too late")],
        ("cut",): [Completion('{"word": "ye', "length", "m-1"), Completion('{"word": "ye', "length", "m-1"), word("too late")],
        ("no",): ["I'm sorry, I can't help with that.", word("too late")],
        ("filtered",): [Completion("", "content_filter", "m-1"), word("too late")],
        ("late no",): ["", Completion("", "refusal", "m-1"), word("too late")],
    }
    clues = [clue(*words) for words in told]
    backend = ScriptedBackend(lambda messages: told[tuple(words_of(messages))].pop(0))
    judge = asker(backend, "off")
    found = judge.answer(clues)
    assert [each.status for each in found] == ["ok", "ok", "invalid_answer", "invalid_answer", "refused", "refused", "refused"]
    assert [each.answers for each in found] == [("yes",), ("yes",), (), (), (), (), ()]
    assert [each.calls for each in found] == [1, 2, 2, 2, 1, 1, 2]
    assert [each.text for each in found[2:4]] == ["{", '{"word": "ye'], "its last reply, word for word"
    assert backend.batches == [7, 4], "the second round is a batch too"
    assert [len(call.messages) for call in backend.asked] == [2] * 7 + [4] * 4
    assert backend.asked[7].messages[2] == {"role": "assistant", "content": "I think that it may well be the word yes."}
    assert plain(judge.answer(clues)) == plain(found), "whatever its status, it is remembered"
    assert judge.counts == {"clues": 7, "cached": 0, "refused": 3, "invalid_answer": 2, "calls": 11}


@pytest.mark.parametrize("thought", ["", "<think>The tower is", "<think>so</think>"])
def test_a_thought_that_was_cut_off_gets_room_the_second_time(asker, thought):
    told = [Completion(thought, "length", "m-1"), word("yes")]
    backend = ScriptedBackend(lambda messages: told.pop(0))
    (found,) = asker(backend).answer([clue("a")])
    assert found.answers == ("yes",)
    assert [call.max_tokens for call in backend.asked] == [48, 4096]
    assert plain(asker(Untouchable(), "only").answer([clue("a")])) == plain([found]), "and is replayed"


def test_an_empty_reply_to_the_official_question_is_not_asked_again(asker):
    backend = ScriptedBackend(lambda _: "")
    (found,) = asker(backend).answer([clue("a", variant="official")])
    assert (found.status, found.answers, found.calls) == ("ok", (), 1)
    assert backend.asked[0].schema is None


def test_a_call_that_failed_is_an_error_of_its_own_and_may_succeed_the_next_time(asker):
    broken = {"b"}
    backend = ScriptedBackend(lambda messages: JudgeError("gave up") if broken & set(words_of(messages)) else echo(messages))
    judge = asker(backend)
    first = judge.answer([clue("b"), clue("a"), clue("c"), clue("b")])
    assert plain(first)[0] == plain(first)[3] == "gave up"
    assert [each.status for each in first[1:3]] == ["ok", "ok"]
    assert backend.batches == [1, 2], "the first one, alone, failed: the others do not wait for each other"
    assert judge.counts["timeout"] == 1
    assert judge.counts["clues"] == 3
    broken.clear()
    assert judge.answer([clue("b")])[0].answers == ("after b",)
    assert asker(Untouchable()).answer([clue("b")])[0].answers == ("after b",)


def test_there_is_no_way_for_the_right_answer_into_a_question(asker):
    """A clue has no field for it, and a question holds nothing but the form and the words."""
    assert [field.name for field in dataclasses.fields(JudgePrompt)] == ["words", "form", "variant"]
    backend = ScriptedBackend(lambda messages: "no answer at all, in many words")
    asker(backend, "off").answer([clue("The", "capital", "of", "France", form=form) for form in ("top1", "top5")])
    asker(backend, "off").answer([clue("Die", "Hauptstadt", form=form) for form in ("top1", "top5")])
    assert len(backend.asked) == 8
    for one, other in zip(backend.asked[:4], backend.asked[4:], strict=True):
        assert one.messages[0] == other.messages[0]
        assert one.messages[2:] == other.messages[2:]
        assert one.messages[1]["content"].replace('"The", "capital", "of", "France"', "") == other.messages[1]["content"].replace(
            '"Die", "Hauptstadt"', ""
        )


def test_where_going_on_is_of_no_use_it_ends_and_what_was_heard_is_kept(asker):
    backend = ScriptedBackend(lambda messages: RunError("a wrong key") if words_of(messages) == ["c"] else echo(messages))
    with pytest.raises(RunError, match="a wrong key"):
        asker(backend).answer([clue("a"), clue("b"), clue("c"), clue("d")])
    backend = ScriptedBackend(echo)
    assert [each.calls for each in asker(backend).answer([clue("a"), clue("b"), clue("c"), clue("d")])] == [0, 0, 1, 1]


# Several sessions


def test_with_every_clue_in_the_cache_nobody_is_asked_not_even_for_a_trial(asker):
    clues = [*CLUES, clue("x", form="top5"), clue("x", variant="official")]
    backend = ScriptedBackend(lambda messages: echo(messages) if len(words_of(messages)) == 2 else json.dumps(dict(zip(
        ("first", "second", "third", "fourth", "fifth"), "abcde", strict=True))))  # fmt: skip
    first = asker(backend).answer(clues)
    assert {each.status for each in first} == {"ok"}
    assert backend.trials == 1
    for mode in ("use", "only"):
        judge = asker(Untouchable(), mode)
        assert plain(judge.answer(clues)) == plain(first)
        assert judge.counts == {"clues": 42, "cached": 42, "refused": 0, "invalid_answer": 0, "calls": 0}
    backend = ScriptedBackend(echo)
    judge = asker(backend)
    assert [each.calls for each in judge.answer([*CLUES, clue("new", "one")])] == [0] * 40 + [1]
    assert backend.trials == 0
    assert judge.counts == {"clues": 41, "cached": 40, "refused": 0, "invalid_answer": 0, "calls": 1}


@pytest.mark.parametrize("structured", [True, False])
def test_refusals_and_malformed_replies_are_never_served_as_answers_but_replayed_with_only(asker, structured):
    def speak(messages):
        return moody(messages) if structured else moody(messages).replace("answer2", "no answer, once more, at all: none")

    first = asker(ScriptedBackend(speak, structured=structured)).answer(CLUES)
    assert len({each.status for each in first}) == (2 if structured else 3)
    assert plain(asker(Untouchable(), "only").answer(CLUES)) == plain(first)
    backend = ScriptedBackend(speak, structured=structured)
    second = asker(backend).answer(CLUES)
    assert plain(second) == plain(first)
    assert [each.calls == 0 for each in second] == [each.status == "ok" for each in first], "also what was an answer when asked again"
    better = asker(ScriptedBackend(echo if structured else lambda messages: "yes", structured=structured)).answer(CLUES)
    assert {each.status for each in better} == {"ok"}
    assert [new for new, old in zip(plain(better), first, strict=True) if old.status == "ok"] == [
        each for each in plain(first) if each.status == "ok"
    ]
    assert plain(asker(Untouchable(), "only").answer(CLUES)) == plain(better), "an answer counts before an older refusal"


def test_only_asks_nobody_and_says_what_is_missing_and_how_to_get_it(asker):
    with pytest.raises(
        RunError, match=r"there are no replies of openai:scripted in .*cache, and --judge-cache only makes no call\. The same"
    ):
        asker(Untouchable(), "only").check()
    assert "3 of 3 questions" in str(asker(Untouchable(), "only").answer([clue("a"), clue("b"), clue("c")])[0])
    asker(ScriptedBackend(echo)).answer([clue("a")])
    judge = asker(Untouchable(), "only")
    judge.check()
    found = judge.answer([clue("a"), clue("b"), clue("c"), clue("a")])
    assert [isinstance(each, JudgeError) for each in found] == [False, True, True, False]
    assert str(found[1]).startswith("2 of 3 questions, this one among them, have no reply of openai:scripted in the cache")
    assert "The same command with --judge-cache use asks what is missing" in str(found[1])
    assert judge.counts["cached"] == 1


def test_a_first_reply_whose_second_ask_failed_is_missing_with_only(asker):
    backend = ScriptedBackend(lambda messages: "" if len(messages) == 2 else JudgeError("gave up"))
    assert isinstance(asker(backend).answer([clue("a")])[0], JudgeError)
    assert "1 of 1 questions" in str(asker(Untouchable(), "only").answer([clue("a")])[0])


def test_check_asks_the_backend_except_with_only(asker):
    backend = ScriptedBackend(echo)
    asker(backend).check()
    asker(backend, "off").check()
    assert backend.checks == 2


def test_off_neither_keeps_nor_looks_up(asker, tmp_path):
    backend = ScriptedBackend(echo)
    asker(backend, "off").answer(CLUES)
    assert backend.batches == [40], "nothing to look up, so nobody waits for the first"
    assert not (tmp_path / "cache").exists()
    asker(ScriptedBackend(lambda messages: word("other"))).answer(CLUES)
    assert asker(backend, "off").answer(CLUES)[0].answers == ("after x",)
    with pytest.raises(OptionError, match="no judge cache 'never'; there are use, only, off"):
        asker(backend, "never")


# Who answers


def test_a_server_that_says_another_id_than_presumed_is_looked_up_anew(asker):
    """m-1 answered a and b, m-2 then b alone; m-1 once more c. Now m-2 answers again: b is its own of then, a and the rest it is asked."""
    asker(ScriptedBackend(lambda messages: word("old"), model="m-1")).answer([clue("a"), clue("b")])
    asker(ScriptedBackend(lambda messages: word("mine"), model="m-2")).answer([clue("fresh"), clue("b")])
    asker(ScriptedBackend(lambda messages: word("old"), model="m-1")).answer([clue("c")])
    backend = ScriptedBackend(lambda messages: word("new"), model="m-2")
    judge = asker(backend)
    assert plain(judge.answer([clue("a")])) == [Reply("ok", ("old",), word("old"), "m-1")], "nothing tells of another model yet"
    assert backend.asked == []
    found = judge.answer([clue("a"), clue("b"), clue("d"), clue("e")])
    assert [(each.model, each.answers, each.calls) for each in found] == [
        ("m-2", ("new",), 1), ("m-2", ("mine",), 0), ("m-2", ("new",), 1), ("m-2", ("new",), 1),
    ]  # fmt: skip
    assert backend.batches == [1, 2], "the first miss alone, then those that are missing of m-2"
    assert words_of(backend.asked[0].messages) == ["d"]
    assert judge.answer([clue("c")])[0].model == "m-2", "from then on"


def test_a_model_that_changes_within_a_session_is_noticed_at_the_next_look(asker):
    asker(ScriptedBackend(echo, model="m-1")).answer([clue("a"), clue("b")])
    backend = ScriptedBackend(echo, model="m-1")
    judge = asker(backend)
    assert judge.answer([clue("c")])[0].model == "m-1"
    assert judge.answer([clue("a")])[0].calls == 0
    backend.says = "m-2"
    found = judge.answer([clue("b"), clue("c"), clue("d")])
    assert [(each.model, each.calls) for each in found] == [("m-2", 1), ("m-1", 0), ("m-2", 1)], "what was heard in this session stays"
    replayed = asker(Untouchable(), "only").answer([clue("b"), clue("c"), clue("d")])
    assert plain(replayed) == plain(found), "each from whom it came"


def test_a_model_that_is_known_before_it_is_asked_is_looked_up_at_once(asker):
    asker(ScriptedBackend(echo, model="m-1", known=True)).answer(CLUES)
    backend = ScriptedBackend(echo, model="m-2", known=True)
    assert {each.model for each in asker(backend).answer(CLUES)} == {"m-2"}
    assert backend.batches == [40]
    backend = ScriptedBackend(echo, model="m-1", known=True)
    assert {(each.model, each.calls) for each in asker(backend).answer(CLUES)} == {("m-1", 0)}
    assert (backend.batches, backend.trials) == ([], 0)


def test_what_was_tried_with_one_model_is_tried_anew_with_another(asker):
    asker(ScriptedBackend(echo, model="m-1", structured=True)).answer([clue("a")])
    backend = ScriptedBackend(lambda messages: "plain", model="m-2", structured=False)
    found = asker(backend).answer([clue("a"), clue("b"), clue("c")])
    assert [each.status for each in found] == ["ok"] * 3
    assert {each.model for each in found} == {"m-2"}
    assert backend.trials == 1
    assert [call.schema is None for call in backend.asked] == [False, True, True, True], "the first was asked as m-1 is"
    for mode in ("use", "only"):
        assert plain(asker(Untouchable(), mode).answer([clue("a"), clue("b"), clue("c")])) == plain(found)


# Faults


def test_a_reply_that_cannot_be_kept_ends_it_whatever_the_backend_makes_of_that(asker, monkeypatch, tmp_path):
    class Swallows(ScriptedBackend):
        def complete(self, calls, heard):
            def deaf(place, said):
                with contextlib.suppress(RunError):
                    heard(place, said)

            super().complete(calls, deaf)

    real, kept = os.write, []

    def full(descriptor, data):
        kept.append(1)
        if len(kept) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(store.os, "write", full)
    with pytest.raises(RunError, match="No space left on device"):
        asker(Swallows(echo)).answer(CLUES)
    monkeypatch.setattr(store.os, "write", real)
    backend = ScriptedBackend(echo)
    assert len([each for each in asker(backend).answer(CLUES) if each.calls == 0]) == 3, "a trial and three replies"


def test_damaged_replies_are_asked_again_and_nothing_else(asker, tmp_path):
    first = asker(ScriptedBackend(echo)).answer(CLUES)
    (file,) = (tmp_path / "cache").iterdir()
    lines = file.read_bytes().split(b"\n")
    lines[5] = lines[5].replace(b"answer", b"Answer").replace(b'"ok"', b'"oK"')
    file.write_bytes(b"\n".join(lines)[:-40])
    backend = ScriptedBackend(echo)
    assert plain(asker(backend).answer(CLUES)) == plain(first)
    assert len(backend.asked) == 2
    assert plain(asker(Untouchable(), "only").answer(CLUES)) == plain(first)


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_in_the_middle_of_judging_no_call_is_repeated_whose_answer_was_stored(tmp_path, kills, capsys):
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.scripted_backend"]
    whole = subprocess.run([*command, str(tmp_path / "whole"), str(log), "0"], capture_output=True, text=True, check=True).stdout
    calls = len(log.read_text().splitlines())
    draw, repeated = random.Random(kills), []
    for number in range(kills):
        log, folder = tmp_path / f"log-{number}", tmp_path / f"cache-{number}"
        process = subprocess.Popen([*command, str(folder), str(log), "0.01"], stdout=subprocess.DEVNULL)
        enough = draw.randint(2, calls - 2)
        while not log.exists() or log.read_text().count("\n") < enough:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        before = log.read_text().splitlines()
        stored = {key for key, entry in ReplyCache("j", folder)._entries.items() if entry.status == "ok"}
        assert len(ReplyCache("j", folder)._entries) >= len(before) - 1, "each is kept as soon as it is heard"
        done = subprocess.run([*command, str(folder), str(log), "0"], capture_output=True, text=True, check=True).stdout
        assert done == whole
        after = log.read_text().splitlines()[len(before) :]
        assert stored
        assert not stored & set(after), "a call was made again whose answer was stored"
        repeated.append(len(set(before) & set(after)))
    with capsys.disabled():
        print(f"\n{kills} kills: of {calls} calls {repeated} were made again, none of which had an answer stored")


def test_replaying_a_table_needs_neither_openai_nor_torch(asker, tmp_path):
    asker(ScriptedBackend(moody)).answer(CLUES)
    code = (
        "import sys\nfrom pathlib import Path\nfrom noiser.judges.judge import CachedJudge\nfrom noiser.judges.cache import ReplyCache\n"
        "from tests.scripted_backend import CLUES, Untouchable\n"
        f"judge = CachedJudge(Untouchable(), ReplyCache('j', Path({str(tmp_path / 'cache')!r})), 'only')\n"
        "assert all(reply.model == 'm-1' for reply in judge.answer(CLUES))\n"
        "print([name for name in ('openai', 'torch', 'transformers', 'httpx') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# By its name


def test_a_judge_has_one_name_in_records_whatever_it_was_called_and_no_path(tmp_path):
    (tmp_path / "folder").mkdir()
    wanted = {
        "local": "local:smollm2-135m",
        "local:smollm2-135m": "local:smollm2-135m",
        "local:org/model": "local:org/model",
        f"local:{tmp_path}/folder": "local:folder",
        f"local:{tmp_path}/folder/": "local:folder",
        f"llama:{tmp_path}/a model.gguf": "llama:a model.gguf",
        "llama:models/model.gguf": "llama:model.gguf",
        "llama:smollm2-135m": "llama:smollm2-135m",
        "openai:meta-llama/Llama-3.3": "openai:meta-llama/Llama-3.3",
        "openai:llama3:8b": "openai:llama3:8b",
    }
    assert {name: judge_name(name) for name in wanted} == wanted


@pytest.mark.parametrize("name", ["", "gpt-4o", "anthropic:x", "Local", ":", "openai", "openai:", "llama", "llama: ", "local:"])
def test_another_name_is_an_error_that_lists_the_three_kinds(name):
    for opened in (judge_name, open_judge):
        with pytest.raises(OptionError, match=r"openai:MODEL .*local or local:MODEL .*llama:FILE\.gguf"):
            opened(name)


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        (
            "local",
            {"url": "http://127.0.0.1:1/v1"},
            "--judge-url is the address of an openai: judge; local has no address: leave the option out",
        ),
        ("llama:a.gguf", {"url": "http://127.0.0.1:1/v1"}, "--judge-url is the address of an openai: judge"),
        ("local", {"cache": "on"}, "--judge-cache is use, only or off; got 'on'"),
        ("openai:m", {"max_connections": 0}, "a judge's max_connections has to be above 0; got 0"),
        ("openai:m", {"timeout": float("nan")}, "a judge's timeout has to be above 0; got nan"),
        ("openai:m", {"total_timeout": -1.0}, "a judge's total_timeout has to be above 0; got -1.0"),
    ],
)
def test_an_option_out_of_its_range_is_an_error(name, how, said):
    wrong = object.__new__(JudgeConfig)  # as an unchecked caller would have it
    for field in dataclasses.fields(JudgeConfig):
        object.__setattr__(wrong, field.name, how.get(field.name, field.default))
    with pytest.raises(OptionError, match=said):
        open_judge(name, wrong)


def test_an_opened_judge_keeps_its_replies_with_the_judges_of_that_identity(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path))
    backend = ScriptedBackend(echo)
    monkeypatch.setitem(factory._BACKENDS, "openai", lambda model, how: backend)
    assert open_judge("openai:scripted").answer([clue("a")])[0].calls == 1
    assert open_judge("openai:scripted", JudgeConfig(cache="only")).answer([clue("a")])[0].calls == 0
    assert open_judge("openai:scripted", JudgeConfig(cache="off")).answer([clue("a")])[0].calls == 1
    (folder,) = (tmp_path / "judges").iterdir()
    assert folder.name.startswith("openai-scripted-")


def test_the_former_names_of_the_configuration_still_work_and_warn():
    """Mutants: `at_once` not accepted; no warning; the former value dropped."""
    assert noiser.JudgeHow is noiser.JudgeConfig is JudgeConfig
    with pytest.warns(DeprecationWarning, match="at_once is now max_connections"):
        config = JudgeConfig(at_once=3)
    assert config == JudgeConfig(max_connections=3)
    assert dataclasses.replace(config, timeout=9.0) == JudgeConfig(max_connections=3, timeout=9.0)
    with pytest.warns(DeprecationWarning, match="budget is now total_timeout"):
        assert JudgeConfig(budget=9.0) == JudgeConfig(total_timeout=9.0)
    with pytest.warns(DeprecationWarning, match="at_once is now max_connections"):
        assert config.at_once == 3
    with pytest.raises(AttributeError, match="no attribute 'at_twice'"):
        _ = config.at_twice
    with pytest.raises(TypeError, match="both 'budget' and 'total_timeout'"):
        JudgeConfig(budget=1.0, total_timeout=1.0)
    assert pickle.loads(pickle.dumps(config)) == config
