"""Records on disk: a line is what was written, or it is named.

The effect without our code: json.loads of a line with one bit flipped often succeeds and gives another number. Mutants caught: a
checksum over the key alone, or not compared; the tail after the last line end read as a line; damage passed over in silence;
`create_once` that overwrites; of two records that differ the later one taken.
"""

import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from noiser.errors import RunError
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.storage import Damage, Writer, create_once, decode, encode, open_output, read_created, scan, write_file

RECORDS = [{"key": f"k{place}", "kind": "value", "status": "ok", "value": place / 7, "text": "a\u2028\ud800\n"} for place in range(3)]


def read(folder):
    return [found for _, _, found in scan(folder)]


def attribution(scores):
    """The record of an attribution with these scores."""
    target = {"token_ids": [1], "tokens": ["a"], "prob": 0.5, "rank": 0}
    cost = {"seconds": 1.0, "forward_tokens": 1, "backward_tokens": 0, "peak_bytes": 0}
    fields = {"targets": [target], "unit": "token", "cost": cost, "notes": {}}
    return {"key": "k", "kind": "attribution", "status": "ok", "scores": scores, **fields}


def forged(body):
    """A line whose checksum is correct."""
    return b'{"sum":"' + hashlib.blake2b(body, digest_size=8).hexdigest().encode() + b'","record":' + body + b"}\n"


@pytest.fixture
def run(tmp_path):
    return RunFolder.start(tmp_path / "run", {"models": {}, "data": {}}, {})


def put(folder, name, records):
    folder.records.mkdir(exist_ok=True)
    (folder.records / f"{name}.jsonl").write_bytes(b"".join(map(encode, records)))


def test_a_line_is_strict_json_and_comes_back_as_it_was():
    for record in RECORDS:
        line = encode(record)
        assert line.count(b"\n") == 1
        assert json.loads(line)["record"] == record
        assert decode(line[:-1]) == record
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"value": float("nan")})


def test_without_a_checksum_a_flipped_bit_is_another_number():
    line = encode({"value": 3})
    assert json.loads(line.replace(b":3", b":2"))["record"] == {"value": 2}


def test_a_tail_torn_at_any_byte_is_left_out_and_all_before_it_stays(tmp_path):
    whole = b"".join(map(encode, RECORDS))
    before = len(b"".join(map(encode, RECORDS[:2])))
    for cut in range(before, len(whole)):
        (tmp_path / "a.jsonl").write_bytes(whole[:cut])
        assert read(tmp_path) == RECORDS[:2], cut
    (tmp_path / "a.jsonl").write_bytes(whole)
    assert read(tmp_path) == RECORDS


@pytest.mark.parametrize("bits", [pytest.param(range(8), marks=pytest.mark.slow), None], ids=["every bit", "a bit of every byte"])
def test_no_flipped_bit_passes_for_a_record(tmp_path, bits):
    """In three lines, one at a time: what is read as a record was written, and a bit in the middle is named."""
    whole = b"".join(map(encode, RECORDS))
    middle = range(len(encode(RECORDS[0])), len(encode(RECORDS[0])) + len(encode(RECORDS[1])) - 1)
    flips = [(byte, bit) for byte in range(len(whole)) for bit in bits or [byte * 5 % 8]]
    for place, bit in flips:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        (tmp_path / "a.jsonl").write_bytes(flipped)
        found = read(tmp_path)
        assert all(each in RECORDS for each in found if not isinstance(each, Damage)), (place, bit)
        if place in middle:
            assert any(isinstance(each, Damage) and each.line >= 2 for each in found), (place, bit)


def test_a_file_of_anything_is_named_line_by_line(tmp_path):
    (tmp_path / "noise.jsonl").write_bytes(random.Random(0).randbytes(5000) + b"\n")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert read(tmp_path)
    assert all(isinstance(each, Damage) for each in read(tmp_path))
    assert str(read(tmp_path)[0]).startswith("noise.jsonl, line 1: it is not a record")


def test_every_writer_has_a_file_of_its_own_which_appears_with_its_first_record(tmp_path):
    one, other = Writer(tmp_path / "records", "shard 0/2"), Writer(tmp_path / "records", "shard 0/2")
    assert not (tmp_path / "records").exists()
    one.write(RECORDS[:1])
    other.write(RECORDS[1:])
    assert one.path != other.path
    assert sorted(record["key"] for record in read(tmp_path / "records")) == ["k0", "k1", "k2"]


def test_what_is_created_once_stays_as_it_is(tmp_path):
    path = tmp_path / "deep" / "a.json"
    assert create_once(path, {"a": 1}) == {"a": 1}
    assert create_once(path, {"a": 2}) == {"a": 1}
    assert [each.name for each in path.parent.iterdir()] == ["a.json"]
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(RunError, match="is damaged"):
        read_created(path)


def test_whoever_is_first_has_created_it(tmp_path, monkeypatch):
    """Somebody else writes the file after we looked and before we are done."""
    import noiser.storage as store

    path, real = tmp_path / "a.json", store.os.fsync

    def late(descriptor):
        real(descriptor)
        if not path.exists():
            path.write_bytes(encode({"a": "theirs"}))

    monkeypatch.setattr(store.os, "fsync", late)
    assert create_once(path, {"a": "ours"}) == {"a": "theirs"} == read_created(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_duplicates_collapse_whatever_their_order_and_a_success_counts_before_a_failure(run):
    failed = {"key": "k1", "kind": "value", "status": "timeout", "value": None}
    again = {**RECORDS[0], "value": RECORDS[0]["value"] + 1e-7}
    for names in itertools.permutations("abc"):
        for name, records in zip(names, [[*RECORDS[:1], failed], [again], [RECORDS[1], failed]], strict=True):
            put(run, name, records)
        found = RecordIndex(run).records
        assert found["k1"] == RECORDS[1]
        assert found["k0"] == min(RECORDS[0], again, key=lambda each: repr(sorted(each.items())))


@pytest.mark.parametrize(
    "other", [{**RECORDS[1], "value": 0.5}, {**RECORDS[1], "scores": [[1.0, 2.0]]}], ids=["another value", "scores where there were none"]
)
def test_records_that_contradict_each_other_are_an_error_that_names_the_line(run, other):
    put(run, "a", RECORDS)
    put(run, "b", [other])
    with pytest.raises(RunError, match=r"b.jsonl, line 1: a record of .* contradicts an earlier one"):
        RecordIndex(run)


def test_whether_records_contradict_does_not_depend_on_their_order(run):
    """Two steps of rounding, each small enough, are together too large, in whatever order they are read."""
    copies = [{**RECORDS[1], "value": 0.5 + step} for step in (0.0, 0.0004, 0.0008)]
    for order in itertools.permutations(copies):
        put(run, "a", order)
        with pytest.raises(RunError, match="contradicts"):
            RecordIndex(run)
    put(run, "a", copies[:2])
    assert len(RecordIndex(run).records) == 1
    put(run, "a", [RECORDS[1], {**RECORDS[1], "status": "undefined", "value": None}])
    with pytest.raises(RunError, match="contradicts"):
        RecordIndex(run)


def test_what_is_no_record_of_a_run_is_named(run):
    put(run, "a", [{"status": "ok"}, *RECORDS])
    (run.records / "b.jsonl").mkdir()
    found = RecordIndex(run)
    assert [str(each) for each in found.damaged] == ["a.jsonl, line 1: it is no record of a run"]
    assert len(found.records) == 3


def test_a_folder_whose_run_json_was_moved_away_is_begun_anew(run, tmp_path):
    put(run, "a", RECORDS)
    (run.path / "run.json").unlink()
    assert len(RecordIndex(RunFolder.start(run.path, {"models": {}, "data": {}}, {})).records) == 3


def test_scores_may_differ_by_rounding_only(run):
    put(run, "a", [attribution([[0.5, 1e-5]])])
    put(run, "b", [attribution([[0.5 + 1e-5, 2e-5]])])
    assert len(RecordIndex(run).records) == 1
    put(run, "b", [attribution([[0.51, 1e-5]])])
    with pytest.raises(RunError, match="contradicts"):
        RecordIndex(run)
    put(run, "b", [attribution([[0.5, 1e-5, 0.0]])])
    with pytest.raises(RunError, match="contradicts"):
        RecordIndex(run)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("everything")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        RunFolder.start(tmp_path, {}, {})
    with pytest.raises(RunError, match="holds no run"):
        RunFolder.open(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        RunFolder.start(tmp_path / "thesis.tex", {}, {})
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_killed_beginning_left_is_no_hindrance(tmp_path):
    (tmp_path / ".run.json.1234abcd").write_bytes(b'{"sum"')
    assert RunFolder.start(tmp_path, {"a": 1}, {}).fingerprint == {"a": 1}


# Files of results: one writer for all. Mutants caught: `write_file` as `open(path, "wb")` (the old file is gone after a failure); without
# realpath (a link becomes a file); without the test for ordinary files (a FIFO or device is replaced); without fsync.


class FullDiskError(OSError):
    """What the system says when there is no room."""


@pytest.mark.parametrize("old", [b"old", None], ids=["a file is there", "no file is there"])
def test_a_failure_leaves_the_old_file_or_none(tmp_path, old):
    path = tmp_path / "result.json"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(FullDiskError), open_output(path) as file:
        file.write(b"half")
        raise FullDiskError
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([old] if old is not None else [])


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    import noiser.storage as store

    def full(_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/dangling")
    (tmp_path / "second").symlink_to(tmp_path / "link")
    for name in ("link", "second"):
        write_file(tmp_path / name, name.encode())
        assert (tmp_path / "folder" / "dangling").read_bytes() == name.encode()
        assert (tmp_path / name).is_symlink()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="loop"):
        write_file(tmp_path / "loop", b"")


def test_a_fifo_and_a_device_are_written_through(tmp_path):
    fifo, found = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()), daemon=True)
    reader.start()
    write_file(fifo, b"through")
    reader.join(10)
    assert found == [b"through"]
    assert fifo.is_fifo()
    write_file("/dev/null", b"nothing")
    assert not Path("/dev/null").is_file()
    assert list(tmp_path.iterdir()) == [fifo]


def test_standard_output_is_never_replaced_nor_cut(tmp_path):
    """`--out /dev/stdout >> log` adds to the log."""
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    script = "from noiser.storage import write_file; write_file('/dev/stdout', b'after')"
    with log.open("ab") as sink:
        subprocess.run([sys.executable, "-c", script], stdout=sink, check=True)
    assert log.read_bytes() == b"before\nafter"


def test_permissions_stay_and_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write_file(path, b"new")
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(FileNotFoundError) as error:
        write_file(tmp_path / "missing" / "a", b"")
    assert error.value.filename == str(tmp_path / "missing" / "a")
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path, b"")


@pytest.mark.parametrize("write", ["records", "created", "result"])
def test_content_is_on_the_disk_before_its_name_is_shown_and_before_the_next_step(tmp_path, monkeypatch, write):
    """Mutant caught: store without fsync. What was written is flushed first; a power loss after the call loses nothing."""
    import noiser.storage as store

    flushed, real = [], store.os.fsync

    def fsync(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append((name.is_dir(), name.read_bytes() if name.is_file() else b"", sorted(each.name for each in tmp_path.iterdir())))
        real(descriptor)

    monkeypatch.setattr(store.os, "fsync", fsync)
    line = encode(RECORDS[0])
    if write == "records":
        writer = Writer(tmp_path)
        writer.write(RECORDS[:1])
        writer.write(RECORDS[1:2])
        assert [content for folder, content, _ in flushed if not folder] == [line, line + encode(RECORDS[1])]
    else:
        path = tmp_path / "a.json"
        _ = create_once(path, RECORDS[0]) if write == "created" else write_file(path, line)
        contents = [(content, "a.json" in names) for folder, content, names in flushed if not folder]
        assert contents == [(line, False)]
    assert any(folder for folder, *_ in flushed)


@pytest.mark.parametrize(
    "body",
    [
        b'{"value":NaN}', b'{"value":-Infinity}', b'{"value":1e999}', b'{"value":' + b"9" * 400 + b".5}",
        b'{"value":' + b"7" * 5000 + b"}", b'{"value":' + b"7" * 400 + b"}", b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":"\xff"}', b'{"a":1', b"[1]", b"null", b'"text"', b"",
    ],
    ids=lambda body: f"{body[:14].decode(errors='replace')} ({len(body)})",
)  # fmt: skip
def test_a_correct_checksum_makes_no_line_a_record(tmp_path, body):
    """Mutants caught: a NaN read back; json.loads at 100,000 levels (RecursionError); int() of 5,000 digits (ValueError); 1e999 as inf."""
    (tmp_path / "a.jsonl").write_bytes(forged(body) + encode(RECORDS[0]))
    damage, record = read(tmp_path)
    assert isinstance(damage, Damage)
    assert damage.line == 1
    assert "not a record" in damage.reason or "strict JSON" in damage.reason
    assert record == RECORDS[0]
    (tmp_path / "one.json").write_bytes(forged(body))
    with pytest.raises(RunError, match="is damaged"):
        read_created(tmp_path / "one.json")


def test_brackets_in_text_and_large_numbers_that_fit_are_read():
    """Mutant caught: brackets inside of strings counted as nesting."""
    record = {"text": "[{" * 500 + '"\\', "value": 1.5e308, "small": 1e-300, "id": 10**307, "deep": [[[[1]]]], "many": [[1]] * 100}
    assert decode(encode(record)[:-1]) == record
