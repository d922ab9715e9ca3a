"""The driver of a Ray run without Ray: workers that die as they are told to, in every order."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from noiser.errors import ModelError, OptionError, RunError
from noiser.experiments.plan import ExecutionConfig
from noiser.experiments.ray import driver
from noiser.experiments.ray.cluster import Allocation, Cluster, allocate, check_execution
from noiser.experiments.ray.driver import LOST, WorkerPool, _Chunk, _TimeUpError
from noiser.experiments.trials import VALUE, GridCell, Sample, Trial


@dataclass(eq=False)
class Promise:
    kind: str
    actor: Any
    samples: Any = ()
    outcome: Any = None
    seen: bool = False


@dataclass(eq=False)
class Actor:
    """Works on its queue one by one. `load`, `run` and `screen` stand for Ray's methods, which have a `remote` each."""

    world: Any
    queue: list[Promise] = field(default_factory=list)
    done: list[Promise] = field(default_factory=list)
    dead: list[Exception] = field(default_factory=list)
    kind: str = ""

    def __getattr__(self, kind):
        return Actor(self.world, self.queue, self.done, self.dead, kind)

    def remote(self, samples=(), rows=None):
        assert self.world.now <= self.world.deadline, "handed out when time was up"
        promise = Promise(self.kind, self, samples)
        if self.dead:
            self.world.suspects |= {sample.id for sample in samples}
            promise.outcome = self.dead[0]
            return promise
        self.queue.append(promise)
        assert len(self.queue) <= 2
        alone = any(sample.id in self.world.suspects for each in self.queue for sample in each.samples if each.kind == "run")
        assert not alone or len(self.queue) == 1, "a suspect is not alone"
        assert rows is None or [rows[sample.id]["id"] for sample in samples] == [sample.id for sample in samples]
        return promise


class World(Cluster):
    """A cluster as the worker pool sees it. `poison` names the samples that kill; where `tardy`, what a worker that dies had just
    finished is lost on the way; `frail` are those that kill at their first attempts, and how often. `loads` says what loading
    leads to: a name, or an exception."""

    allocation: Any = None

    def __init__(self, seed=0, workers=2, poison=(), tardy=False, loads=lambda hired: "ready", frail=()):
        self.random, self.allocation, self.poison, self.tardy, self.loads = (
            random.Random(seed),
            Allocation(workers, 0, 1.0, 1),
            poison,
            tardy,
            loads,
        )
        self.actors, self.suspects, self.hired, self.lost, self.said, self.now, self.deadline = [], set(), 0, 0, [], 0.0, 1e9
        self.progress, self.frail, self.finished, self.came = self, dict(frail), [], 0.0

    def say(self, what, *, keep=False):
        self.said.append(what)

    def check_health(self, *, has_workers):
        assert self.now < 1000, "it does not end"

    def start_worker(self, model):
        self.hired += 1
        self.actors.append(Actor(self))
        assert len(self.actors) <= self.allocation.workers
        return self.actors[-1]

    def stop_worker(self, actor):
        self.actors.remove(actor)
        self.break_all(actor, RuntimeError("dismissed"))

    def result(self, promise):
        assert promise.outcome is not None
        promise.seen = True
        return (None, promise.outcome) if isinstance(promise.outcome, Exception) else (promise.outcome, None)

    def wait_any(self, promises, seconds=0.25):
        self.now += 1.0 if seconds else 0.0
        busy = [actor for actor in self.actors if actor.queue] if seconds else []
        if busy:
            self.step(self.random.choice(busy))
        ready = [promise for promise in promises if promise.outcome is not None]
        return self.random.choice(ready) if ready and (self.random.random() < 0.7 or not seconds) else None

    def step(self, actor):
        promise = actor.queue[0]
        if promise.kind == "load":
            promise.outcome = self.loads(self.hired)
        elif any(sample.id in self.poison or self.frail.get(sample.id) for sample in promise.samples):
            self.lost += 1
            self.frail |= {sample.id: self.frail[sample.id] - 1 for sample in promise.samples if self.frail.get(sample.id)}
            self.suspects |= {sample.id for each in actor.queue for sample in each.samples}
            if self.tardy:
                for each in actor.done:
                    each.outcome = each.outcome if each.seen else RuntimeError("lost on the way")
                    self.suspects |= set() if each.seen else {sample.id for sample in each.samples}
            self.break_all(actor, RuntimeError("killed"))
            return
        else:
            self.finished += [sample.id for sample in promise.samples]
            promise.outcome = [[{"sample": sample.id, "status": "ok"}] for sample in promise.samples]
        actor.done.append(actor.queue.pop(0))

    def break_all(self, actor, error):
        for promise in actor.queue:
            promise.outcome = error
        actor.queue.clear()
        actor.dead.append(error)


def cell_of(count):
    samples = tuple(Sample("m", "d", f"p{i}", None, f"h{i}", (Trial(f"k{i}", VALUE, "a", "b"),)) for i in range(count))
    return GridCell("m", "d", [{"id": sample.id} for sample in samples], samples, [])


def worked(world, count=14, at_once=1, deadline=None):
    """What became of each sample, each exactly once."""
    cell = cell_of(count)
    world.deadline = 1e9 if deadline is None else deadline
    todo = [_Chunk(cell.samples[start : start + at_once], cell) for start in range(0, count, at_once)]
    pool, found = WorkerPool(world, "m", deadline), {}
    try:
        for records in pool.run(todo):
            assert records[0]["sample"] not in found, "twice"
            found[records[0]["sample"]] = records[0]["status"]
            world.came = world.now
    except _TimeUpError:
        found["time"] = "up"
    pool.close()
    assert world.actors == []
    return found


@pytest.mark.parametrize("tardy", [False, True])
@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_only_what_kills_is_given_up(workers, at_once, tardy):
    """Whatever the order, and even where a result is lost with the worker that the next sample killed.

    Mutants: `_handle_loss` forgets those that waited, or does not mark them as suspects; a chunk is not taken apart;
    `chunk.losses + 1 < MAX_WORKER_LOSSES` without the 1; `has_room` does not look for suspects; what had been finished is done again.
    """
    for seed in range(40):
        world = World(seed, workers, {"p3", "p9", "p10"}, tardy)
        found = worked(world, at_once=at_once)
        assert {name for name, status in found.items() if status == LOST} == world.poison
        assert len(found) == 14 and set(found.values()) == {"ok", LOST}
        assert tardy or len(world.finished) == 11, "what was finished is not done again"
        assert 7 <= world.lost <= 12, "three losses each, fewer where two are in one chunk, one more where another was suspected first"


def test_what_waits_behind_a_killer_is_not_blamed_for_it():
    """p1 waits behind p0 and dies twice of its own: two losses, not three. Mutant: `_handle_loss` blames every chunk of a lost worker."""
    for seed in range(20):
        assert worked(World(seed, 1, {"p0"}, frail={"p1": 2}), 2) == {"p0": LOST, "p1": "ok"}


def test_a_lost_worker_is_replaced_while_others_are_at_work():
    """Mutant: `_start_workers` is called only where there is nobody."""
    world = World(workers=3, frail={"p0": 1})
    assert set(worked(world, 30).values()) == {"ok"} and world.hired == 4


def test_workers_that_cannot_start():
    """Three in a row: those that are at work go on alone; where there are none, the run ends. The model's own error is said at once.

    Mutants: `_failed_starts` is not counted (it does not end), or not set back; `_limit` is not set.
    """
    names = iter(["ready"])
    world = World(workers=3, loads=lambda hired: next(names, RunError("another revision")))
    assert set(worked(world, 30).values()) == {"ok"} and "going on with 1 workers" in world.said
    with pytest.raises(RunError, match="3 workers in a row could not start; the last error was RunError: another revision"):
        worked(World(loads=lambda hired: RunError("another revision")))
    world = World(loads=lambda hired: ModelError("there is no folder m"))
    with pytest.raises(ModelError, match="there is no folder m"):
        worked(world)
    odd = iter(range(1000))
    assert set(worked(World(poison={"p1"}, loads=lambda hired: "ready" if next(odd) % 3 == 2 else RunError("full"))).values()) == {
        "ok",
        LOST,
    }


def test_no_more_is_begun_when_time_is_up(monkeypatch):
    """What is under way still counts (the fake refuses work that is handed out later), and a run that was done is no run stopped.

    Mutants: `_is_late` is not asked before `_assign`; `_TimeUpError` is raised where nothing is left; GRACE is much longer, or 0.
    """
    came = []
    for seed in range(20):
        world = World(seed)
        monkeypatch.setattr(driver.time, "monotonic", lambda world=world: world.now)
        found = worked(world, 60, deadline=20.0)
        assert found.pop("time") == "up" and 0 < len(found) < 60 and world.now <= 20 + driver.GRACE + 2
        came.append(world.came)
        whole = World(seed)
        monkeypatch.setattr(driver.time, "monotonic", lambda world=whole: world.now)
        assert "time" not in worked(whole, 4, deadline=900.0)
    assert max(came) > 21.0


def test_no_more_workers_than_there_is_work_for():
    """Mutant: `_start_workers` does not look at `useful`. (In all of these tests, DEPTH = 3, and a `close` that leaves the workers.)"""
    world = World(workers=8)
    worked(world, 2)
    assert world.hired == 2


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([(2, 0)], {}, Allocation(1, 0, 1.98, 2)),
        ([(2, 0)], {"workers": 2}, Allocation(2, 0, 0.99, 1)),
        ([(8, 0)], {"workers": 3}, Allocation(3, 0, 1.98, 2)),
        ([(4, 0), (4, 0)], {"workers": 2}, Allocation(2, 0, 3.96, 4)),
        ([(4, 0), (2, 0)], {"workers": 3}, Allocation(3, 0, 1.98, 2)),
        ([(8, 0), (16, 4)], {}, Allocation(4, 1, 3.96, 4)),
        ([(16, 4), (16, 4)], {"workers": 2}, Allocation(2, 1, 15.84, 16)),
        ([(2, 4)], {}, Allocation(4, 1, 0.0, 1)),
        ([(16, 4)], {"device": "cpu", "workers": 4}, Allocation(4, 0, 3.96, 4)),
    ],
)
def test_workers_share_the_cpus_and_each_has_a_gpu(nodes, asked, expected):
    """Mutant: the CPUs of all nodes are divided as if a worker could lie across two of them."""
    found = allocate([{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes], ExecutionConfig(engine="ray", **asked))
    assert found == expected
    assert found.threads * found.workers <= sum(cpus for cpus, _ in nodes) or any(gpus > cpus for cpus, gpus in nodes)
    assert allocate([{"CPU": 8.0}], ExecutionConfig(engine="ray"), max_threads=1) == Allocation(1, 0, 7.92, 1)


def test_what_ray_cannot_do_is_refused(monkeypatch):
    """Mutant: `check_execution` returns before one of its questions."""
    with pytest.raises(OptionError, match="3 workers with a CPU each: the cluster has 0 GPUs and 2 CPUs"):
        allocate([{"CPU": 2.0}], ExecutionConfig(engine="ray", workers=3))
    with pytest.raises(OptionError, match="a worker with a GPU each"):
        allocate([{"CPU": 2.0}], ExecutionConfig(engine="ray", device="cuda"))
    refused = {
        "--device-map": {"device_map": "auto"},
        "HOST:PORT": {"address": "ray://head:10001"},
        "the GPUs itself": {"device": "cuda:1"},
    }
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    for said, given in refused.items():
        with pytest.raises(OptionError, match=said):
            check_execution(ExecutionConfig(engine="ray", **given))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'noiser\[ray\]'"):
        check_execution(ExecutionConfig(engine="ray"))
