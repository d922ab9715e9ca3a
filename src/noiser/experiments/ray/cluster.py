"""Ray as a run needs it: the connection, how many workers there is room for, and what a worker's process does."""

import contextlib
import importlib.util
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from noiser._version import __version__
from noiser.errors import OptionError, RunError
from noiser.experiments.interrupts import SIGNALS, Interrupts
from noiser.experiments.plan import ExecutionConfig
from noiser.experiments.schedule import Prepared, Watch
from noiser.experiments.trials import Sample
from noiser.experiments.worker import ModelWorker, Records

Ray = Any
"""The module `ray`, which is imported only when it is needed."""
TICK, LOOK = 0.25, 5.0
"""Seconds between two looks at signals and the clock, and at the cluster."""
PATIENCE = 30.0
"""Seconds that the cluster's head may be out of reach, or all machines too small for a worker."""
AGAIN = "what is done is kept, and the same command goes on from there"


@dataclass(frozen=True)
class Shape:
    """How many workers there are to be, and what Ray is to keep for each of them."""

    workers: int
    gpus: int
    cpus: float
    threads: int

    def fits(self, resources: Mapping[str, float]) -> bool:
        """Whether a node with these resources holds a worker, at least when nothing else runs there."""
        return resources.get("CPU", 0) >= self.cpus and resources.get("GPU", 0) >= self.gpus


def shape(nodes: Sequence[Mapping[str, float]], how: ExecutionConfig, most: int | None = None) -> Shape:
    """A worker for each GPU, or without GPUs one for all CPUs of a node; or as many as are asked for, each with as many threads
    as leave room for the others, but no more than `most`.

    Raises OptionError where the nodes, each a mapping with `CPU` and `GPU`, cannot hold them.
    """
    cpus, gpus = ([int(node.get(name, 0)) for node in nodes] for name in ("CPU", "GPU"))
    on_gpus = how.device == "cuda" or (how.device == "auto" and sum(gpus) > 0)
    workers = how.workers or (sum(gpus) if on_gpus else 1)
    if workers > sum(gpus if on_gpus else cpus) or workers == 0:
        needs = f"{workers or 'a'} worker{'s' * (workers > 1)} with a {'GPU' if on_gpus else 'CPU'} each"
        raise OptionError(f"{needs}: the cluster has {sum(gpus)} GPUs and {sum(cpus)} CPUs. Give another --workers or --device")

    def room(threads: int) -> int:
        return sum(min(own // threads, gpu) if on_gpus else own // threads for own, gpu in zip(cpus, gpus, strict=True))

    threads = next((each for each in range(max(cpus), 0, -1) if room(each) >= workers), 0)
    # A hundredth less than its threads: no node's CPUs are ever all taken, which starves whatever else Ray runs there, and
    # still no more workers fit on a node than it has CPUs for. 0 where there are more GPUs than CPUs: then GPUs alone count.
    return Shape(workers, int(on_gpus), round(0.99 * threads, 2), min(max(1, threads), most or max(1, threads)))


class RayWorker:
    """What an actor's process holds: a `ModelWorker`. Whatever its methods raise ends the process: the driver starts another."""

    def __init__(self, prepared: Prepared, model: str, how: ExecutionConfig, threads: int, home: tuple[str, str]) -> None:
        self._given, self._threads, self._home = (prepared, model, how), threads, home

    def load(self) -> str:
        """Load the model; which process this is. Raises RunError where this machine would compute other numbers, and OptionError
        where a method or metric is not installed here."""
        import torch

        prepared, model, how = self._given
        folder, version = self._home
        me = f"process {os.getpid()} on {socket.gethostname()}"
        if version != __version__:
            raise RunError(f"{me} has noiser {__version__}, the run was started with {version}: install the same everywhere")
        os.environ["OMP_NUM_THREADS"] = str(self._threads)
        torch.set_num_threads(self._threads)
        if Path(folder).is_dir():
            os.chdir(folder)  # a model's name may be a path from where the run was started
        _ = prepared.plan.rows(), prepared.plan.columns()  # what is not installed here is said now, not once for every sample
        self._station = ModelWorker(prepared.plan, prepared.identity, model, prepared.datasets, how)
        planned, here = prepared.identity["models"][model]["dtype"], str(self._station.lm.model.dtype).removeprefix("torch.")
        if planned != here:
            raise RunError(f"{model} is planned in {planned}, and {me} computes in {here}: give --dtype or --device")
        return me

    def screen(self, data: str) -> dict[str, Any]:
        """Which rows of a data set are kept; see `Station.screen`."""
        return self._station.screen(data)

    def work(self, samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Any]]) -> list[Records]:
        """The records of each sample; see `Station.work`."""
        return list(self._station.work(samples, rows))


def check(how: ExecutionConfig) -> None:
    """Raises OptionError where Ray is not installed, or for settings that make no sense with it."""
    if importlib.util.find_spec("ray") is None:
        raise OptionError("--engine ray needs Ray. Type: pip install 'noiser[ray]'")
    if how.device_map is not None:
        raise OptionError("--engine ray gives each worker one GPU: leave out --device-map, or start several processes with --shard")
    if how.device not in ("auto", "cpu", "cuda"):
        raise OptionError(f"--engine ray hands out the GPUs itself: --device auto, cpu or cuda; got {how.device!r}")
    if how.address is not None and "://" in how.address:
        raise OptionError(f"--address is auto or HOST:PORT of the cluster's head, given on one of its machines; got {how.address!r}")


class Cluster:
    """Ray, connected to when there is first something to do, and what the crews of all models have in common."""

    def __init__(self, prepared: Prepared, how: ExecutionConfig, watch: Watch, stopping: Interrupts, stack: contextlib.ExitStack) -> None:
        self.prepared, self.how, self.watch, self.stopping, self._stack = prepared, how, watch, stopping, stack
        self._joined: tuple[Ray, Shape, Any] | None = None
        self._looked = self._reached = self._roomy = time.monotonic()

    @property
    def size(self) -> Shape:
        """What the workers are like."""
        return self._join()[1]

    def _join(self) -> tuple[Ray, Shape, Any]:
        if self._joined is None:
            self.watch.say(f"joining the cluster at {self.how.address}" if self.how.address else "starting Ray")
            ray = self._stack.enter_context(connected(self.how.address, self.stopping))
            given = os.environ.get("OMP_NUM_THREADS", "")
            size = shape(_nodes(ray), self.how, int(given) if given.isdigit() and int(given) else None)
            context = ray.get_runtime_context()
            own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
            self._head, self._here = context.gcs_address.rsplit(":", 1), (own["NodeManagerAddress"], own["NodeManagerPort"])
            self._looked = self._reached = self._roomy = time.monotonic()
            self._joined = ray, size, ray.put(self.prepared)
        return self._joined

    def hire(self, model: str) -> Any:
        """A new actor. Ray itself neither starts it anew nor repeats its work, for it would repeat what kills it as well: only
        the driver knows what was running."""
        ray, size, data = self._join()
        asked = {"num_cpus": size.cpus, "num_gpus": size.gpus, "max_restarts": 0, "max_task_retries": 0}
        how = self.how if size.gpus else replace(self.how, device="cpu")
        given = data, model, how, size.threads, (str(Path.cwd()), __version__)
        return ray.remote(RayWorker).options(**asked, scheduling_strategy="SPREAD").remote(*given)

    def dismiss(self, actor: Any) -> None:
        """End an actor's process, whatever it is doing."""
        self._join()[0].kill(actor, no_restart=True)

    def first(self, promises: Sequence[Any], seconds: float = TICK) -> Any:
        """The first promise that is kept or broken; None where none is in time. Raises RunError where Ray is gone."""
        ray = self._join()[0]
        with self.stopping.whole():  # raised inside Ray, our SystemExit(143) would come out as SystemExit(1)
            try:
                ready, _ = ray.wait(list(promises), num_returns=1, timeout=seconds)
            except ray.exceptions.RaySystemError as error:
                raise RunError(f"the Ray cluster is gone ({brief(error)}): {AGAIN}") from error
        return ready[0] if ready else None

    def get(self, promise: Any) -> tuple[Any, Exception | None]:
        """What was promised, or what broke the promise: the worker's own exception, or one of Ray's."""
        ray = self._join()[0]
        with self.stopping.whole():
            try:
                return ray.get(promise), None
            except ray.exceptions.RayTaskError as error:
                return None, error.cause if isinstance(error.cause, Exception) else error
            except ray.exceptions.RayError as error:
                return None, error

    def look(self, at_work: bool) -> None:
        """Now and then: is the head still there, and, where nobody is at work, is there room for anybody? Raises RunError if not."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        try:  # not through Ray, which would wait and then end this process without a word
            socket.create_connection(self._here, timeout=3).close()
        except ConnectionRefusedError as error:
            raise RunError(f"Ray's own process on this machine is gone: {AGAIN}") from error
        except OSError:
            pass  # busy
        try:
            socket.create_connection((self._head[0].strip("[]"), int(self._head[1])), timeout=3).close()
        except OSError as error:
            if now - self._reached > PATIENCE:
                raise RunError(f"the head of the Ray cluster cannot be reached ({error}): {AGAIN}") from error
            return
        self._reached = now
        if at_work or any(map(self.size.fits, _nodes(self._join()[0]))):
            self._roomy = now
        elif now - self._roomy > PATIENCE:
            raise RunError(f"no machine of the Ray cluster is large enough for a worker any more: {AGAIN}")


@contextlib.contextmanager
def connected(address: str | None, stopping: Interrupts) -> Iterator[Ray]:
    """Ray, joined at the address, or started for as long as the block lasts; as it is where this process uses it already.

    Raises RunError where there is no cluster. A Ray of our own wants a token from whoever calls, since its ports are open to the
    network; not where this process had imported Ray already, for then it is too late to say so.
    """
    address = None if address == "local" else address
    with _environment(_settings(address)):  # before the import: Ray reads them once, some of them then
        import ray

        if ray.is_initialized():
            yield ray
            return
        try:
            with stopping.whole(), _own_handlers():
                _init(ray, address)
            yield ray
        finally:
            ray.shutdown()


def _settings(address: str | None) -> dict[str, str]:
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    too_late = "ray" in sys.modules and not _token.cache_info().currsize  # imported by others, without a token
    if address is None and "RAY_AUTH_MODE" not in os.environ and not too_late:
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    return settings


def _init(ray: Ray, address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        where = f"there is no Ray cluster at {address} that this machine is part of" if address else "Ray does not start"
        raise RunError(f"{where}: {str(error).strip().splitlines()[0]}") from error
    except SystemExit as error:  # SIGTERM while Ray's own handler was in place
        raise SystemExit(128 + signal.SIGTERM) from error


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray puts its own handler for SIGTERM in place, which would end the process with another status; ours comes back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Ray reads these from the environment; what the user set himself stays, and what was not set is not set afterwards."""
    own = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


@cache
def _token() -> str:
    return secrets.token_hex(32)  # one for the whole process: Ray keeps the first that it reads


def _nodes(ray: Ray) -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def brief(error: Exception | None) -> str:
    """An exception in a line, without Ray's list of what may have happened."""
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[-1].split(' Some common causes')[0].strip()[:300]}"
