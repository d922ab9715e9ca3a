"""Runs on Ray: the same records as one process gives, written once, whatever becomes of workers, nodes and the driver.

The workers of these tests have one method more, `touchy`, from a package on their path: a prompt with "wait" in it takes most of a second,
one with "poison" kills the process.
"""

import os
import signal
import sys
import time
from dataclasses import replace

import psutil
import pytest

from noiser.cli.run import executor
from noiser.errors import RunError
from noiser.experiments.folder import RunFolder
from noiser.experiments.plan import ExecutionConfig, make_plan
from noiser.experiments.run import prepare, run
from noiser.storage import Damage, scan
from tests.conftest import byte_tokenizer, tiny

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'noiser[ray]'")

TOUCHY = """
import os, signal, time
from noiser.methods.controls import constant
from noiser.methods.base import MethodOutput
from noiser.registry import method
from noiser.lm.target import Objective
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel

@method("touchy", family="control", source="here", paper_normalization="none")
def touchy(lm: LanguageModel, clean: CleanRun, objective: Objective) -> MethodOutput:
    if "wait" in clean.prompt.text:
        time.sleep(float(os.environ.get("TOUCHY", "0.7")))
    if "poison" in clean.prompt.text:
        os.kill(os.getpid(), signal.SIGKILL)
    return constant(lm, clean, objective)
"""
METHODS = ["occlusion", "touchy"]
GIVEN = {"methods": METHODS, "metrics": ["soft_nc", "comprehensiveness"], "controls": ["random"]}
SAMPLES = 12
TRIALS = SAMPLES * (2 + 2 * 3 + 1)
"""Of METHODS and random: scores, and two metrics of each of them."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model, prompts, and the package that brings `touchy`."""
    folder = tmp_path_factory.mktemp("cluster")
    tiny("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    (folder / "package" / "touchy-1.dist-info").mkdir(parents=True)
    (folder / "package" / "touchy.py").write_text(TOUCHY)
    (folder / "package" / "touchy-1.dist-info" / "METADATA").write_text("Name: touchy\nVersion: 1\n")
    (folder / "package" / "touchy-1.dist-info" / "entry_points.txt").write_text("[noiser.methods]\ntouchy = touchy\n")
    for name, word in (("plain", "sentence"), ("slow", "wait"), ("bad", "sentence")):
        lines = [f'{{"id": "p{i}", "prompt": "{"poison" if (name, i) == ("bad", 5) else word} no {i} is"}}' for i in range(SAMPLES)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def touchy(place):
    """The method, in this process and in those that it starts."""
    from noiser.registry import METHODS as KNOWN

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ONE_THREAD.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(place / "package"), os.environ.get("PYTHONPATH")])))
        patch.syspath_prepend(str(place / "package"))
        import touchy  # noqa: F401  (enters itself)

        yield
        KNOWN.pop("touchy")
        sys.modules.pop("touchy")


@pytest.fixture(scope="module")
def cluster(touchy):
    """Ray, for all tests of this module: starting it takes several seconds."""
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Seen:
    """Notes what a run says; does `then` after each sample."""

    def __init__(self, then=lambda seen: None):
        self.said, self.done, self.then = [], 0, then

    def say(self, what, *, keep=False):
        self.said.append(what)

    def expect(self, samples):
        self.expected = samples

    def advance(self, failures):
        self.done += 1
        self.then(self)

    def workers(self):
        """The processes that said that they loaded the model."""
        return [int(what.split("process ")[1].split()[0]) for what in self.said if "is loaded: process" in what]


def plan_of(place, data, **given):
    return make_plan(
        {"models": [str(place / "model")], "data": [{"name": "jsonl", "path": f"{place / data}.jsonl", "match": "none"}], **GIVEN, **given}
    )


def execute(prepared, out, execution, progress):
    return run(prepared, out, execution, progress, executor(execution))


def ran(place, out, data="plain", watch=None, **how):
    how = ExecutionConfig(**{"device": "cpu", "engine": "ray", "workers": 2, **how})
    return execute(prepare(plan_of(place, data), how), out, how, watch or Seen())


def lines(out):
    """Every record in the folder, twice where it was written twice."""
    found = [record for _, _, record in scan(RunFolder.open(out).records)]
    assert not any(isinstance(record, Damage) for record in found)
    return found


def numbers(out):
    """What each record says, without what it cost; each exactly once."""
    found = {record["key"]: {name: value for name, value in record.items() if name != "cost"} for record in lines(out)}
    assert len(found) == len(lines(out)), "a record was written twice"
    return found


@pytest.fixture(scope="module")
def alone(place, touchy, tmp_path_factory):
    """What one process on one thread says of the plain prompts, and of the slow ones."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for data in ("plain", "slow"):
        out = tmp_path_factory.mktemp("alone") / data
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TOUCHY", "0")
            assert ran(place, out, data, engine="local", workers=None).complete
        found[data] = numbers(out)
    torch.set_num_threads(before)
    return found


def test_ray_writes_the_records_that_one_process_writes(place, cluster, alone, tmp_path):
    """Bit by bit, in one file. Mutant: the records of a sample are written twice."""
    seen = Seen()
    outcome = ran(place, tmp_path / "run", workers=1, watch=seen)
    assert outcome.complete and outcome.statuses == {"ok": TRIALS}
    assert numbers(tmp_path / "run") == alone["plain"]
    assert len(seen.workers()) == 1 and seen.expected == seen.done == SAMPLES
    assert len(list((tmp_path / "run" / "records").iterdir())) == 1, "only the driver writes"


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_nothing_is_written_twice(place, cluster, alone, tmp_path):
    """Mutant: `_handle_loss` forgets the chunk that was running. tests/experiments/test_ray_driver.py has the others."""

    def kill_one(seen):
        if seen.done == 3:
            os.kill(seen.workers()[-1], signal.SIGKILL)

    seen = Seen(kill_one)
    outcome = ran(place, tmp_path / "run", "slow", seen)
    assert outcome.complete and outcome.statuses == {"ok": TRIALS}
    assert numbers(tmp_path / "run") == alone["slow"]
    assert len(set(seen.workers())) == 3 and sum("was lost" in what for what in seen.said) == 1


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 4])
def test_a_sample_that_kills_its_worker_is_given_up_after_three(place, cluster, alone, tmp_path, at_once):
    """And only that one: what waits behind it, or is worked on with it, is not to blame. Mutants: a chunk is not taken apart (4).
    tests/experiments/test_ray_driver.py has the others."""
    seen = Seen()
    outcome = ran(place, tmp_path / "run", "bad", seen, max_samples=at_once)
    assert outcome.complete and outcome.failed == 1 and outcome.planned == TRIALS
    assert outcome.statuses == {"ok": TRIALS * 11 // 12, "error(WorkerLost)": TRIALS // 12}
    found = numbers(tmp_path / "run").values()
    assert {record["sample"] for record in found if record["status"] != "ok"} == {"p5"}
    failed = [record for record in found if record["status"] != "ok" and record["kind"] != "sample"]
    assert all("3 workers were lost over it" in record["message"] for record in failed)
    assert sum("was lost" in what for what in seen.said) == 3


@pytest.mark.slow
def test_the_workers_of_a_model_are_gone_before_the_next_one_is_loaded(place, cluster, tmp_path):
    """Mutant: the worker pools are closed at the end of the run."""
    tiny("llama", seed=1).save_pretrained(place / "other")
    byte_tokenizer().save_pretrained(place / "other")
    there = []
    seen = Seen(lambda seen: there.append([psutil.pid_exists(worker) for worker in seen.workers()]))
    plan = plan_of(place, "plain", models=[str(place / "model"), str(place / "other")])
    how = ExecutionConfig(device="cpu", engine="ray", workers=1)
    outcome = execute(prepare(plan, how), tmp_path / "run", how, seen)
    assert outcome.complete and outcome.statuses == {"ok": 2 * TRIALS}
    assert there == [[True]] * SAMPLES + [[False, True]] * SAMPLES


@pytest.mark.slow
def test_the_time_limit_ends_a_run_in_good_order_and_it_goes_on(place, cluster, alone, tmp_path):
    """Mutant: `_is_late` always says no."""
    seen, begun = Seen(), time.monotonic()
    first = ran(place, tmp_path / "run", "slow", seen, workers=1, time_limit=6.0)
    assert time.monotonic() - begun < 6 + 5 + 4 and first.stopped and not first.complete
    assert seen.said[-1] == "stopping after 6 s; the same command continues from here"
    assert ran(place, tmp_path / "run", "slow").complete and numbers(tmp_path / "run") == alone["slow"]


@pytest.mark.slow
def test_what_no_worker_can_load_is_said_and_nothing_is_lost(place, cluster, tmp_path, monkeypatch):
    """An error of the model's is said at once; workers that die while they load it are given up after three.

    tests/experiments/test_ray_driver.py has the mutants.
    """
    how = ExecutionConfig(device="cpu", engine="ray", workers=2)
    prepared = prepare(plan_of(place, "plain"), how)
    model = {label: {**each, "revision": "another"} for label, each in prepared.fingerprint["models"].items()}
    seen = Seen()
    with pytest.raises(RunError, match=r"3 workers in a row could not start.*its revision was another"):
        execute(replace(prepared, fingerprint={**prepared.fingerprint, "models": model}), tmp_path / "run", how, seen)
    assert sum("was lost" in what for what in seen.said) == 3
