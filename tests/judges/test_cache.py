"""Replies on disk: what was heard is found again by exactly what was asked, and whatever happens to the files is no error.

Mutants caught, each one line: a key without the model or without the parameters; the newest answer taken instead of the first; a
refusal that counts before an answer; damage that is not counted; a torn tail that is not; a fork that writes to its parent's file;
the folder named by the judge's name alone; `last_model` taken from the oldest entry.
"""

import errno
import itertools
import os
import random
import subprocess
import sys

import pytest

import noiser.storage as store
from noiser.errors import RunError
from noiser.judges.backend import Completion
from noiser.judges.cache import Entry, ReplyCache, judge_folder
from noiser.storage import encode

MESSAGES = ({"role": "system", "content": "Task"}, {"role": "user", "content": 'Tokens: ["a", "\ud800"]'})
LIMITS = {"temperature": 0, "max_tokens": 48}


def said(text="Paris", model="m-1", finish="stop"):
    return Completion(text, finish, model)


def entries(folder):
    return ReplyCache("j", folder)


def test_what_was_kept_is_found_by_model_messages_and_parameters_and_by_nothing_less(tmp_path):
    put = ReplyCache("j", tmp_path).put(MESSAGES, LIMITS, said(), "ok")
    found = entries(tmp_path)
    assert found.get("m-1", MESSAGES, LIMITS) == put
    assert (put.text, put.finish, put.model, put.status) == ("Paris", "stop", "m-1", "ok")
    assert found.get("m-1", tuple(dict(reversed(each.items())) for each in MESSAGES), dict(reversed(LIMITS.items()))) == put
    assert found.get("m-2", MESSAGES, LIMITS) is None
    assert found.get("m-1", MESSAGES[1:], LIMITS) is None
    assert found.get("m-1", MESSAGES, LIMITS | {"max_tokens": 47}) is None
    assert len(found) == 1


def test_an_entry_holds_all_that_was_asked_and_who_said_what_when(tmp_path):
    cache = ReplyCache({"judge": "openai:m"}, tmp_path)
    cache.put(MESSAGES, LIMITS, said(finish="length"), "invalid_answer")
    cache.put_capabilities("m-1", {"structured": True})
    (reply, trial) = [record for _, _, record in store.scan(tmp_path) if isinstance(record, dict)]
    at = reply.pop("at")
    assert at.endswith("+00:00")
    assert len(reply.pop("key")) == 32
    assert reply == {
        "kind": "reply", "judge": "openai:m", "model": "m-1", "messages": list(MESSAGES), "parameters": LIMITS, "text": "Paris",
        "finish": "length", "status": "invalid_answer",
    }  # fmt: skip
    assert trial.pop("at") >= at
    assert trial == {"kind": "trial", "judge": "openai:m", "model": "m-1", "found": {"structured": True}}


def test_an_answer_counts_before_what_is_none_and_the_first_answer_before_later_ones_in_whatever_order_the_files_are(tmp_path):
    early, late = "2025-01-01T00:00:00.000000+00:00", "2025-01-02T00:00:00.000000+00:00"
    no, later_no = Entry("no", "stop", "m-1", "refused", early), Entry("never", "stop", "m-1", "refused", late)
    yes, later_yes = Entry("Rome", "stop", "m-1", "ok", early), Entry("Paris", "stop", "m-1", "ok", late)
    for present, wanted in (([no, later_no], "never"), ([yes, later_no], "Rome"), ([later_yes, yes, later_no, no], "Rome")):
        for order in itertools.permutations(present):
            cache = ReplyCache("j", tmp_path / "none")
            for each in order:
                cache._add("key", each)
            assert cache._entries["key"].text == wanted


def test_the_newest_entry_says_who_answers_and_the_newest_trial_how(tmp_path):
    cache = ReplyCache("j", tmp_path)
    assert cache.last_model is None
    assert cache.capabilities("m-1") is None
    for model in ("m-2", "m-1", "m-3", "m-2"):
        cache.put([{"role": "user", "content": str(len(cache))}], LIMITS, said(model=model), "ok")
    assert cache.models == entries(tmp_path).models == ["m-2", "m-3", "m-1"], "m-2 was heard first, and last"
    cache.put_capabilities("m-2", {"structured": False})
    cache.put_capabilities("m-2", {"structured": True})
    for each in (cache, entries(tmp_path)):
        assert each.models == ["m-2", "m-3", "m-1"]
        assert each.last_model == "m-2"
        assert each.capabilities("m-2") == {"structured": True}
        assert each.capabilities("m-1") is None


@pytest.fixture
def three(tmp_path):
    """The bytes of a file with three replies, to "0", "1" and "2"."""
    cache = ReplyCache("j", tmp_path / "whole")
    for place in range(3):
        cache.put([{"role": "user", "content": str(place)}], LIMITS, said(f"answer {place}"), "ok")
    (file,) = (tmp_path / "whole").iterdir()
    return file.read_bytes()


def texts(cache):
    found = [cache.get("m-1", [{"role": "user", "content": str(place)}], LIMITS) for place in range(3)]
    return [entry.text if entry else None for entry in found]


def test_a_tail_torn_anywhere_is_counted_and_costs_that_reply_alone(tmp_path, three):
    lines = three.splitlines(keepends=True)
    begin = len(lines[0] + lines[1])
    for cut in range(begin, len(three)):
        (tmp_path / "a.jsonl").write_bytes(three[:cut])
        cache = entries(tmp_path)
        assert texts(cache) == ["answer 0", "answer 1", None], cut
        assert cache.damaged == (cut > begin), cut


def test_no_flipped_bit_is_an_error_or_another_answer(tmp_path, three):
    draw = random.Random(0)
    for place in draw.sample(range(len(three)), 300):
        flipped = bytearray(three)
        flipped[place] ^= 1 << draw.randrange(8)
        (tmp_path / "a.jsonl").write_bytes(flipped)
        cache = entries(tmp_path)
        assert all(text in (None, f"answer {number}") for number, text in enumerate(texts(cache)))
        assert texts(cache).count(None) in (1, 2)
        assert cache.damaged in (1, 2), "one line, or two that became one, or one that became two"


def test_what_is_no_reply_is_counted_and_left_out(tmp_path, three):
    (tmp_path / "a.jsonl").write_bytes(three)
    others = [{"key": "k", "status": "ok"}, {"kind": "reply", "key": 3}, {"kind": "trial", "model": "m", "found": [], "at": ""}, {}]
    (tmp_path / "b.jsonl").write_bytes(b"".join(map(encode, others)) + b"\x00\xff\n\n")
    (tmp_path / "c.jsonl").mkdir()
    (tmp_path / "d.jsonl").write_bytes(b"")
    cache = entries(tmp_path)
    assert texts(cache) == ["answer 0", "answer 1", "answer 2"]
    assert cache.damaged == len(others) + 2
    assert cache.models == ["m-1"]


WRITING = """
import sys
from pathlib import Path
from noiser.judges.backend import Completion
from noiser.judges.cache import ReplyCache
cache = ReplyCache("j", Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for place in range(60):
    cache.put([{"role": "user", "content": f"{sys.argv[2]} {place}"}], {}, Completion("x" * 5000, "stop", "m"), "ok")
print([name for name in ("openai", "torch", "transformers") if name in sys.modules])
"""


def test_two_processes_write_at_once_and_nothing_is_lost_and_neither_needs_torch_or_openai(tmp_path):
    command = [sys.executable, "-c", WRITING, str(tmp_path)]
    both = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "ab"]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in both] == ["[]\n", "[]\n"]
    assert len(list(tmp_path.iterdir())) == 2
    cache = entries(tmp_path)
    assert len(cache) == 120
    assert cache.damaged == 0


def test_a_fork_writes_to_a_file_of_its_own(tmp_path):
    cache = ReplyCache("j", tmp_path)
    cache.put(MESSAGES, {}, said("parent"), "ok")
    child = os.fork()
    if not child:
        cache.put(MESSAGES, LIMITS, said("child"), "ok")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(tmp_path.iterdir())) == 2
    assert len(entries(tmp_path)) == 2


def test_a_full_disk_is_one_clear_error_and_nothing_before_it_is_lost(tmp_path, monkeypatch):
    """The second write gets through to a third; what got through is taken back."""
    cache, real = ReplyCache("j", tmp_path), os.write
    cache.put(MESSAGES, {}, said("before"), "ok")

    def full(descriptor, data):
        if len(data) > 50:
            return real(descriptor, data[: len(data) // 3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "write", full)
    with pytest.raises(RunError, match=r"No space left on device\. All earlier records are intact"):
        cache.put(MESSAGES, LIMITS, said("lost"), "ok")
    monkeypatch.setattr(store.os, "write", real)
    assert cache.get("m-1", MESSAGES, LIMITS) is None
    found = entries(tmp_path)
    assert (len(found), found.damaged) == (1, 0)
    cache.put(MESSAGES, LIMITS, said("after"), "ok")
    assert {each.text for each in entries(tmp_path)._entries.values()} == {"before", "after"}


def test_a_folder_that_cannot_be_made_or_read_is_a_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to"):
        ReplyCache("j", tmp_path / "file" / "deeper").put(MESSAGES, LIMITS, said(), "ok")
    ReplyCache("j", tmp_path).put(MESSAGES, LIMITS, said(), "ok")

    def denied(folder):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("noiser.judges.cache.scan", denied)
    with pytest.raises(RunError, match=r"cannot read the judge's replies in .*: Permission denied"):
        entries(tmp_path)


def test_each_judge_has_a_folder_that_can_be_read_and_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path))
    names = ["openai:meta-llama/Llama-3.3", "openai:meta-llama:Llama-3.3", "../../etc", "..", "x" * 400, ""]
    folders = [judge_folder(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(each.parent == tmp_path / "judges" and len(each.name) < 80 for each in folders)
    assert folders[0].name.startswith("openai-meta-llama-Llama-3.3-")
    judge = {"judge": "local:m", "weights": "1"}
    assert ReplyCache(judge).folder == judge_folder(dict(reversed(judge.items())))
    assert judge_folder(judge | {"weights": "2"}) != judge_folder(judge)
    assert not (tmp_path / "judges").exists(), "looking makes nothing"
