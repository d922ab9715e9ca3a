"""Ray as a run needs it: the connection, how many workers fit, and the worker's process."""

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
from noiser.experiments.schedule import PreparedRun, RunProgress
from noiser.experiments.trials import Sample
from noiser.experiments.worker import ModelWorker, Records

Ray = Any
"""The module `ray`. It is imported only when it is needed."""
POLL_SECONDS = 0.25
"""Seconds between two checks of signals and the clock."""
HEALTH_SECONDS = 5.0
"""Seconds between two checks of the cluster."""
OUTAGE_SECONDS = 30.0
"""Seconds that the cluster's head may be unreachable, or all machines too small for a worker."""
CONTINUES = "finished work is kept, and the same command continues from there"


@dataclass(frozen=True)
class Allocation:
    """How many workers a run has, and what Ray reserves for each of them."""

    workers: int
    gpus: int
    cpus: float
    threads: int

    def fits(self, resources: Mapping[str, float]) -> bool:
        """True if a node with these resources holds a worker, at least while nothing else runs there."""
        return resources.get("CPU", 0) >= self.cpus and resources.get("GPU", 0) >= self.gpus


def allocate(nodes: Sequence[Mapping[str, float]], execution: ExecutionConfig, max_threads: int | None = None) -> Allocation:
    """One worker for each GPU; without GPUs one worker with all CPUs of a node; or as many workers as `execution` asks for.

    Each worker has as many threads as leave room for the others, at most `max_threads`. `nodes` are mappings with `CPU` and `GPU`.
    Raises OptionError if the nodes cannot hold the workers.
    """
    cpus, gpus = ([int(node.get(name, 0)) for node in nodes] for name in ("CPU", "GPU"))
    on_gpus = execution.device == "cuda" or (execution.device == "auto" and sum(gpus) > 0)
    workers = execution.workers or (sum(gpus) if on_gpus else 1)
    if workers > sum(gpus if on_gpus else cpus) or workers == 0:
        needs = f"{workers or 'a'} worker{'s' * (workers > 1)} with a {'GPU' if on_gpus else 'CPU'} each"
        raise OptionError(f"{needs}: the cluster has {sum(gpus)} GPUs and {sum(cpus)} CPUs. Give another --workers or --device")

    def capacity(threads: int) -> int:
        return sum(min(cpu // threads, gpu) if on_gpus else cpu // threads for cpu, gpu in zip(cpus, gpus, strict=True))

    threads = next((count for count in range(max(cpus), 0, -1) if capacity(count) >= workers), 0)
    # A hundredth less than the threads: a node whose CPUs are all taken starves whatever else Ray runs there. Still no more workers
    # fit on a node than it has CPUs for. 0 if there are more GPUs than CPUs: then GPUs alone count.
    return Allocation(workers, int(on_gpus), round(0.99 * threads, 2), min(max(1, threads), max_threads or max(1, threads)))


class RayWorker:
    """A `ModelWorker` in an actor's process. An exception of its methods ends the process; the driver then starts another."""

    def __init__(self, prepared: PreparedRun, model: str, execution: ExecutionConfig, threads: int, origin: tuple[str, str]) -> None:
        self._arguments, self._threads, self._origin = (prepared, model, execution), threads, origin

    def load(self) -> str:
        """Load the model. Returns a name for this process.

        Raises RunError if this machine would compute other numbers, and OptionError if a method or metric is not installed here.
        """
        import torch

        prepared, model, execution = self._arguments
        folder, version = self._origin
        name = f"process {os.getpid()} on {socket.gethostname()}"
        if version != __version__:
            raise RunError(f"{name} has noiser {__version__}, the run was started with {version}: install the same version everywhere")
        os.environ["OMP_NUM_THREADS"] = str(self._threads)
        torch.set_num_threads(self._threads)
        if Path(folder).is_dir():
            os.chdir(folder)  # a model's name may be a path from where the run was started
        _ = prepared.plan.rows, prepared.plan.columns()  # reports now, and not for every sample, what is not installed here
        self._worker = ModelWorker(prepared.plan, prepared.fingerprint, model, prepared.datasets, execution)
        planned = prepared.fingerprint["models"][model]["dtype"]
        dtype = str(self._worker.lm.dtype).removeprefix("torch.")
        if planned != dtype:
            raise RunError(f"{model} is planned in {planned}, and {name} computes in {dtype}: give --dtype or --device")
        return name

    def screen(self, data: str) -> dict[str, Any]:
        """See `ModelWorker.screen`."""
        return self._worker.screen(data)

    def run(self, samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Any]]) -> list[Records]:
        """See `ModelWorker.run`."""
        return list(self._worker.run(samples, rows))


def check_execution(execution: ExecutionConfig) -> None:
    """Raise OptionError if Ray is not installed, or for settings that Ray cannot honour."""
    if importlib.util.find_spec("ray") is None:
        raise OptionError("--engine ray needs Ray. Install it with: pip install 'noiser[ray]'")
    if execution.device_map is not None:
        raise OptionError("--engine ray gives each worker one GPU: leave out --device-map, or start several processes with --shard")
    if execution.device not in ("auto", "cpu", "cuda"):
        raise OptionError(f"--engine ray hands out the GPUs itself: --device must be auto, cpu or cuda; got {execution.device!r}")
    if execution.address is not None and "://" in execution.address:
        raise OptionError(
            f"--address must be auto, or HOST:PORT of the cluster's head, given on one of its machines; got {execution.address!r}"
        )


@dataclass(frozen=True)
class _Connection:
    ray: Ray
    allocation: Allocation
    prepared: Any
    """The prepared run in Ray's object store."""
    head: tuple[str, int]
    """Address of the cluster's head."""
    local_node: tuple[str, int]
    """Address of Ray's own process on this machine."""


class Cluster:
    """Ray, connected at the first use, and what the worker pools of all models share."""

    def __init__(
        self,
        prepared: PreparedRun,
        execution: ExecutionConfig,
        progress: RunProgress,
        interrupts: Interrupts,
        stack: contextlib.ExitStack,
    ) -> None:
        self.prepared, self.execution, self.progress, self.interrupts, self._stack = prepared, execution, progress, interrupts, stack
        self._connection: _Connection | None = None
        self._checked = self._reached = self._fitted = time.monotonic()

    @property
    def allocation(self) -> Allocation:
        """How many workers there are, and how large they are."""
        return self._connect().allocation

    def _connect(self) -> _Connection:
        if self._connection is None:
            address = self.execution.address
            self.progress.say(f"joining the cluster at {address}" if address else "starting Ray")
            ray = self._stack.enter_context(connect(address, self.interrupts))
            threads = os.environ.get("OMP_NUM_THREADS", "")
            allocation = allocate(_nodes(ray), self.execution, int(threads) if threads.isdigit() and int(threads) else None)
            context = ray.get_runtime_context()
            node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
            host, port = context.gcs_address.rsplit(":", 1)
            local_node = (node["NodeManagerAddress"], node["NodeManagerPort"])
            self._checked = self._reached = self._fitted = time.monotonic()
            self._connection = _Connection(ray, allocation, ray.put(self.prepared), (host.strip("[]"), int(port)), local_node)
        return self._connection

    def start_worker(self, model: str) -> Any:
        """A new actor. Ray never restarts it and never repeats its calls, because it would repeat the call that killed the actor.

        Only the driver knows what was running.
        """
        connection = self._connect()
        size = connection.allocation
        options = {"num_cpus": size.cpus, "num_gpus": size.gpus, "max_restarts": 0, "max_task_retries": 0}
        execution = self.execution if size.gpus else replace(self.execution, device="cpu")
        arguments = connection.prepared, model, execution, size.threads, (str(Path.cwd()), __version__)
        return connection.ray.remote(RayWorker).options(**options, scheduling_strategy="SPREAD").remote(*arguments)

    def stop_worker(self, actor: Any) -> None:
        """End an actor's process, whatever it is doing."""
        self._connect().ray.kill(actor, no_restart=True)

    def wait_any(self, promises: Sequence[Any], seconds: float = POLL_SECONDS) -> Any:
        """The first promise that is kept or broken; None if none is in time. Raises RunError if Ray is gone."""
        ray = self._connect().ray
        with self.interrupts.postponed():  # raised inside Ray, our SystemExit(143) would come out as SystemExit(1)
            try:
                ready, _ = ray.wait(list(promises), num_returns=1, timeout=seconds)
            except ray.exceptions.RaySystemError as error:
                raise RunError(f"the Ray cluster is gone ({one_line(error)}): {CONTINUES}") from error
        return ready[0] if ready else None

    def result(self, promise: Any) -> tuple[Any, Exception | None]:
        """What was promised, or the error that broke the promise: the worker's own exception, or one of Ray's."""
        ray = self._connect().ray
        with self.interrupts.postponed():
            try:
                return ray.get(promise), None
            except ray.exceptions.RayTaskError as error:
                return None, error.cause if isinstance(error.cause, Exception) else error
            except ray.exceptions.RayError as error:
                return None, error

    def check_health(self, *, has_workers: bool) -> None:
        """Now and then, raise RunError if the head is gone, or if there is no worker and no node is large enough for one."""
        now = time.monotonic()
        if now - self._checked < HEALTH_SECONDS:
            return
        self._checked = now
        connection = self._connect()
        try:  # not through Ray, which would wait and then end this process without a message
            socket.create_connection(connection.local_node, timeout=3).close()
        except ConnectionRefusedError as error:
            raise RunError(f"Ray's own process on this machine is gone: {CONTINUES}") from error
        except OSError:
            pass  # busy
        try:
            socket.create_connection(connection.head, timeout=3).close()
        except OSError as error:
            if now - self._reached > OUTAGE_SECONDS:
                raise RunError(f"the head of the Ray cluster cannot be reached ({error}): {CONTINUES}") from error
            return
        self._reached = now
        if has_workers or any(map(connection.allocation.fits, _nodes(connection.ray))):
            self._fitted = now
        elif now - self._fitted > OUTAGE_SECONDS:
            raise RunError(f"no machine of the Ray cluster is large enough for a worker any more: {CONTINUES}")


@contextlib.contextmanager
def connect(address: str | None, interrupts: Interrupts) -> Iterator[Ray]:
    """Ray, joined at the address, or started for the block. If this process uses Ray already, it is taken as it is.

    Raises RunError if there is no cluster. A Ray that we start asks callers for a token, because its ports are open to the network.
    If this process had imported Ray before, it is too late for the token.
    """
    address = None if address == "local" else address
    with _environment(_settings(address)):  # before the import: Ray reads some of them only then
        import ray

        if ray.is_initialized():
            yield ray
            return
        try:
            with interrupts.postponed(), _keep_signal_handlers():
                _init(ray, address)
            yield ray
        finally:
            ray.shutdown()


def _settings(address: str | None) -> dict[str, str]:
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    is_too_late = "ray" in sys.modules and not _token.cache_info().currsize  # imported by others, without a token
    if address is None and "RAY_AUTH_MODE" not in os.environ and not is_too_late:
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
        problem = f"there is no Ray cluster at {address} that this machine is part of" if address else "Ray does not start"
        raise RunError(f"{problem}: {str(error).strip().splitlines()[0]}") from error
    except SystemExit as error:  # SIGTERM while Ray's own handler was in place
        raise SystemExit(128 + signal.SIGTERM) from error


@contextlib.contextmanager
def _keep_signal_handlers() -> Iterator[None]:
    """Put our handlers back. Ray installs its own one for SIGTERM, which would end the process with another status."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block. Variables that the user set stay as they are."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@cache
def _token() -> str:
    return secrets.token_hex(32)  # one for the whole process: Ray keeps the first one that it reads


def _nodes(ray: Ray) -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def one_line(error: Exception | None) -> str:
    """An exception as one line, without Ray's list of possible causes."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1].split(' Some common causes')[0].strip()[:300]}"
