"""Runs on Ray that are stopped, or whose cluster falls apart: no process stays, nothing is lost, and they go on."""

# ruff: noqa: F811  (fixtures are imported, and come in again as arguments)

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.experiments.test_ray import GIVEN, SAMPLES, Seen, alone, cluster, lines, numbers, place, ran, ray, touchy  # noqa: F401  (fixtures)

pytestmark = pytest.mark.slow


def started(place, out, *arguments):
    """`noiser run` of the slow prompts as a process at the head of its own group, as a terminal starts it; its messages' file."""
    plan = place / "plan.toml"
    quoted = {name: "[" + ", ".join(f'"{each}"' for each in names) + "]" for name, names in GIVEN.items()}
    listed = "\n".join(f"{name} = {names}" for name, names in quoted.items())
    plan.write_text(f'models = ["{place / "model"}"]\n{listed}\n[[data]]\nname = "jsonl"\npath = "slow.jsonl"\nmatch = "none"\n')
    said = out.with_suffix(".txt")
    command = [sys.executable, "-m", "noiser", "run", str(plan), "--out", str(out), "--engine", "ray", "--device", "cpu", *arguments]
    given = {name: value for name, value in os.environ.items() if arguments or not name.startswith("RAY_")}  # which ray.init may set
    with said.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, cwd=place, env=given), said


def until(true, seconds, what):
    """Wait for it. Fails with what was waited for."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what()}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("joins", "number"),
    [
        pytest.param(True, signal.SIGINT, id="ctrl-c in a cluster"),
        pytest.param(False, signal.SIGINT, id="ctrl-c"),
        pytest.param(False, signal.SIGTERM, id="terminated"),
        pytest.param(False, signal.SIGKILL, id="killed"),
    ],
)
def test_a_stopped_run_leaves_no_process_and_goes_on(place, cluster, alone, tmp_path, joins, number):
    """On a cluster that stays, and with a Ray of its own, which goes too. It goes on here without Ray: the folder is the same.

    Mutants: Ray's handler for SIGTERM is left in place, or `stopping.whole` left out of `first` (another exit status).
    """
    address = ["--address", ray.get_runtime_context().gcs_address] if joins else []
    process, said = started(place, tmp_path / "run", *address)
    records = tmp_path / "run" / "records"
    until(lambda: records.exists() and any(each.stat().st_size for each in records.iterdir()), 120, said.read_text)
    worker = int(said.read_text().split("is loaded: process ")[1].split()[0])
    family = [psutil.Process(worker), *psutil.Process(process.pid).children(recursive=True)]
    begun = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    status = process.wait(20)
    ended = time.monotonic() - begun
    assert status == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number], said.read_text()
    if number == signal.SIGKILL:  # Ray's two agents look for the lost cluster for some minutes before they go
        family = [each for each in family if each.is_running() and not each.name().endswith("Agent")]
    left = psutil.wait_procs(family, 10)[1]
    print(f"ended after {ended:.1f} s, all processes after {time.monotonic() - begun:.1f} s")
    assert left == []
    assert 0 < len({record["sample"] for record in lines(tmp_path / "run")}) < SAMPLES
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOUCHY", "0")
        assert ran(place, tmp_path / "run", "slow", engine="local", workers=None).complete
    assert numbers(tmp_path / "run") == alone["slow"]


STRANGER = """
import os, subprocess, sys
from noiser.experiments.ray.cluster import connect
from noiser.experiments.interrupts import Interrupts
for _ in range(2):
    with Interrupts() as stopping, connect(None, stopping) as ray:
        address = ray.get_runtime_context().gcs_address
        if "--deaf" not in sys.argv:
            os.environ.pop("RAY_AUTH_TOKEN")
            os.environ.pop("RAY_AUTH_MODE")
            print(subprocess.run([sys.executable, "-c", f"import ray; ray.init('{address}')"], capture_output=True, text=True).stderr)
            sys.argv.append("--deaf")
print("started twice", [name for name in os.environ if name.startswith("RAY_AUTH")])
"""


def test_a_ray_of_our_own_lets_no_stranger_in():
    """Its ports are open to the network, and whoever may speak to them may run code. It can be started twice by one process.

    Mutants: the environment is set after the import of Ray; another token the second time; the settings stay in the environment.
    """
    given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    found = subprocess.run([sys.executable, "-c", STRANGER], capture_output=True, text=True, env=given, timeout=200)
    assert "ConnectionError" in found.stdout and "token" in found.stdout, found
    assert "started twice []" in found.stdout, found


@pytest.mark.parametrize(
    ("lost", "message"), [("gcs_server", "head of the Ray cluster cannot be reached"), ("raylet", "Ray's own process")]
)
def test_a_run_whose_cluster_is_gone_ends_with_an_error_and_goes_on(place, alone, tmp_path, monkeypatch, lost, message):
    """Mutant: `Cluster.check_health` is not called (Ray ends the process by itself, without a word of ours)."""
    monkeypatch.setenv("TOUCHY", "8")
    process, said = started(place, tmp_path / "run")
    records = tmp_path / "run" / "records"
    until(lambda: records.exists() and any(each.stat().st_size for each in records.iterdir()), 120, said.read_text)
    next(each for each in psutil.Process(process.pid).children(recursive=True) if each.name() == lost).kill()
    assert process.wait(60) == 1
    assert f"Error: {message}" in said.read_text().replace("the head", "head"), said.read_text()
    monkeypatch.setenv("TOUCHY", "0")
    assert ran(place, tmp_path / "run", "slow", engine="local", workers=None).complete
    assert numbers(tmp_path / "run") == alone["slow"]


def two_machines(place, out):
    """A run on two nodes of two CPUs each: a worker on the first is killed, later the second node."""
    import touchy  # noqa: F401  (enters itself)
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "_system_config": quick})
    second = nodes.add_node(num_cpus=2)
    raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
    killed, removed = [], []

    def then(seen):
        there = {each.pid for each in raylet.children()} if not removed else set()
        here = [worker for worker in seen.workers() if worker not in there]
        if not killed and here and there & set(seen.workers()):
            os.kill(here[0], signal.SIGKILL)
            killed.append(seen.done)
        elif killed and not removed and seen.done > killed[0] + 1:
            nodes.remove_node(second, allow_graceful=False)
            removed.append(seen.done)

    seen = Seen(then)
    outcome = ran(place, out, "slow", seen, address=nodes.address)
    print(*seen.said, outcome, sep="\n")
    assert outcome.complete and removed and removed[0] < SAMPLES and sum("was lost" in what for what in seen.said) == 2
    ray.shutdown()
    nodes.shutdown()


def test_two_nodes_of_which_one_is_lost_give_the_records_of_one_process(place, touchy, alone, tmp_path):
    """In a network of its own that nothing else is in. Mutant: `_hand_out` gives nobody a suspect (it does not end)."""
    command = "ip link set lo up && exec " + sys.executable + " -c " + f'"{TWO}" {place} {tmp_path / "run"}'
    given = {**os.environ, "TOUCHY": "2"}
    found = subprocess.run(
        ["unshare", "-rn", "sh", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[2], env=given
    )
    if "unshare failed" in found.stderr or "not permitted" in found.stderr:
        pytest.skip("no network namespaces here: " + found.stderr.strip())
    print(found.stdout)
    assert found.returncode == 0, found.stderr
    assert numbers(tmp_path / "run") == alone["slow"]


TWO = "import sys, pathlib; from tests.experiments.test_ray_faults import two_machines; two_machines(*map(pathlib.Path, sys.argv[1:]))"
