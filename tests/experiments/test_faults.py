"""Whatever happens to a run, the same command ends it, and with the same table.

The effect without our code: a file cut off in the middle of a line, read as JSON lines, raises or loses what follows. Mutants
caught: records written without regard to what is there already (doubled); `fresh` dropped a kind of record; a torn tail read as a
record; a sample counted as done by its last record alone; the shard's stride taken from what is left instead of from all.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from noiser.experiments.folder import RunFolder
from tests.runs import command, forks, keys, make_place, table


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    with forks(tmp_path_factory.mktemp("said") / "errors.txt") as found:
        yield found


@pytest.fixture(scope="module")
def whole(place, forked):
    """A run that nothing happened to: its folder, and how long it took."""
    status, seconds = forked.run(command(place, place / "whole"))
    assert status == [0]
    return place / "whole", seconds


def finish(place, forked, whole, out):
    """The same command again; then all is there, once, and the table is that of a run that nothing happened to."""
    before = keys(out) if out.exists() else {}
    assert forked.run(command(place, out))[0] == [0]
    after = keys(out)
    assert all(after[key] == count for key, count in before.items()), "what was there before is gone or was written again"
    assert set(after.values()) == {1}
    assert table(out) == table(whole)
    assert after.keys() == keys(whole).keys()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_table(place, forked, whole, tmp_path, capsys, kills):
    draw, cut = random.Random(kills), []
    for number in range(kills):
        out = tmp_path / f"killed-{number}"
        torn = {"tear_write": 3} if number == 0 else {"signals": [[draw.uniform(0.02, 1.0) * whole[1], signal.SIGKILL]]}
        status, _ = forked.run(command(place, out), **torn)
        assert status in ([-signal.SIGKILL], [0])
        cut.append(len(keys(out)) if out.exists() else -1)
        if number == 0:
            (file,) = (out / "records").glob("*.jsonl")
            assert not file.read_bytes().endswith(b"\n"), "the write was to be torn"
        finish(place, forked, whole[0], out)
    with capsys.disabled():
        print(f"\n{kills} kills, after which there were {sorted(cut)} of {len(keys(whole[0]))} records")
    assert any(0 < count < len(keys(whole[0])) for count in cut), "no kill hit the middle of the run"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_whole_records_and_their_exit_status(place, forked, whole, tmp_path, number, status):
    out = tmp_path / "stopped"
    ended, _ = forked.run(command(place, out), signals=[[0.5 * whole[1], number]])
    assert ended == [status]
    assert all(file.read_bytes().endswith(b"\n") for file in out.glob("records/*.jsonl"))
    finish(place, forked, whole[0], out)


def test_a_second_ctrl_c_leaves_within_two_seconds_even_from_deep_inside_a_computation():
    """The main thread is in a C call that no signal handler of Python's can interrupt."""
    code = (
        "import hashlib, sys\nfrom noiser.experiments.interrupts import Interrupts\n"
        "with Interrupts():\n    print('ready', flush=True)\n    hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "one signal alone cannot be seen while the call lasts"
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert time.monotonic() - begin < 2.0


@pytest.mark.slow
def test_two_processes_in_one_folder_and_any_number_of_shards_give_the_same_table(place, forked, whole, tmp_path):
    both = tmp_path / "both"
    assert forked.run(command(place, both), command(place, both))[0] == [0, 0]
    assert len(list(both.glob("records/*.jsonl"))) == 2
    assert table(both) == table(whole[0])
    for shards in (2, 3):
        out = tmp_path / f"{shards}-shards"
        assert forked.run(*[command(place, out, "--shard", f"{which}/{shards}") for which in range(shards)])[0] == [0] * shards
        assert len(list(out.glob("records/*.jsonl"))) == shards
        assert set(keys(out).values()) == {1}, "two shards did the same sample"
        assert table(out) == table(whole[0])


def test_shards_of_another_number_go_on_where_the_first_stopped(place, forked, whole, tmp_path):
    out = tmp_path / "resharded"
    assert forked.run(command(place, out, "--shard", "1/3"))[0] == [0]
    assert forked.run(command(place, out, "--time-limit", "0"))[0] == [75]
    for which in range(2):
        assert forked.run(command(place, out, "--shard", f"{which}/2"))[0] == [0], "one after the other, each its own share"
    assert set(keys(out).values()) == {1}
    assert table(out) == table(whole[0])


def test_merged_folders_of_shards_give_the_same_table(place, forked, whole, tmp_path):
    outs = [tmp_path / f"machine-{which}" for which in range(2)]
    for which, out in enumerate(outs):
        assert forked.run(command(place, out, "--shard", f"{which}/2"))[0] == [0]
    assert forked.run(["merge", str(outs[0]), "--out", str(tmp_path / "half")])[0] == [1]
    assert forked.run(["merge", *map(str, outs), "--out", str(tmp_path / "one")])[0] == [0]
    assert set(keys(tmp_path / "one").values()) == {1}
    assert table(tmp_path / "one") == table(whole[0])


def test_a_damaged_record_is_named_kept_and_computed_again(place, forked, whole, tmp_path):
    out = tmp_path / "flipped"
    shutil.copytree(whole[0], out)
    (file,) = (out / "records").glob("*.jsonl")
    lines = file.read_bytes().split(b"\n")
    lines[4] = lines[4].replace(b'"status":"ok"', b'"status":"oK"')
    file.write_bytes(b"\n".join(lines))
    assert forked.run(["status", str(out)])[0] == [1]
    assert forked.run(command(place, out))[0] == [0]
    (kept,) = (out / "quarantine").iterdir()
    assert kept.name == f"{file.name}.5"
    assert kept.read_bytes() == lines[4] + b"\n"
    said = table(out).replace("\\", "")
    assert f"Damaged, left out and named: {file.name}, line 5: its checksum differs." in said
    assert set(keys(out).values()) == {1}
    assert keys(out).keys() == keys(whole[0]).keys()
    assert RunFolder.open(out)


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_once_there_is_room(place, whole, tmp_path):
    """A 2 MB file system of its own, filled but for 20 kB."""
    disk, out = tmp_path / "disk", tmp_path / "disk" / "run"
    disk.mkdir()
    words = " ".join(map(str, [sys.executable, "-m", "noiser", *command(place, out)]))
    script = (
        f"mount -t tmpfs -o size=2m none {disk} || exit 90\n"
        f"dd if=/dev/zero of={disk}/filler bs=1k count=2012 2>/dev/null\n"
        f"{words} 2>{tmp_path}/first; echo $? >{tmp_path}/status\n"
        f"cp -r {out} {tmp_path}/full; rm {disk}/filler\n"
        f"{words} 2>{tmp_path}/second; echo $? >>{tmp_path}/status; cp -r {out} {tmp_path}/after\n"
    )
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare to mount a small file system with")
    ended = subprocess.run([*namespace, "sh", "-c", script], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if not (tmp_path / "status").exists():
        pytest.skip(f"no file system can be mounted here: {ended.stderr.strip()}")
    assert (tmp_path / "status").read_text().split() == ["1", "0"]
    said = (tmp_path / "first").read_text()
    assert said.count("Error:") == 1
    assert "No space left on device" in said
    assert "Traceback" not in said
    before, after = keys(tmp_path / "full"), keys(tmp_path / "after")
    assert 0 < len(before) < len(after)
    assert set(after.values()) == {1}
    assert all(file.read_bytes().endswith(b"\n") for file in (tmp_path / "full").glob("records/*.jsonl")), "half a record was left"
    assert table(tmp_path / "after") == table(whole[0])
