"""Which share of a run a process takes: said, or read from the launcher that started it."""

import os
import re
from collections.abc import Mapping

from noiser.errors import OptionError

Shard = tuple[int, int]
"""(which, of how many), counted from 0."""


def read_shard(given: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """`0/4` as (0, 4). Where nothing is said: RANK and WORLD_SIZE, as torchrun sets them; under SLURM the task of the step
    and of the array together; else everything. Raises OptionError for what is neither."""
    if given is not None:
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", given, re.ASCII)
        if not found or not int(found[1]) < int(found[2]):
            raise OptionError(f"--shard wants WHICH/OF, counted from 0, the last of four being 3/4; got {given!r}")
        return int(found[1]), int(found[2])
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _pair(environment, "RANK", "WORLD_SIZE")
    task = _pair(environment, "SLURM_PROCID", "SLURM_NTASKS") if "SLURM_PROCID" in environment and _started_by_srun(environment) else (0, 1)
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return task
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", "0")
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", "1")
    place = (_number(environment, "SLURM_ARRAY_TASK_ID") - first) // max(1, step)
    size = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    if not 0 <= place < size:
        raise OptionError(f"SLURM's array says task {place} of {size}: give --shard WHICH/OF")
    return place * task[1] + task[0], size * task[1]


def local_device(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """The GPU of this process among those of its machine, where a launcher started several and no device was asked for."""
    place = environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", ""))
    if device != "auto" or not place.isdigit():
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(place) % count}" if count > 1 else device


def _started_by_srun(environment: Mapping[str, str]) -> bool:
    """A batch script itself has a SLURM_PROCID of 0 too, although it does not run as so many tasks."""
    return "SLURM_STEP_ID" in environment and environment.get("SLURM_STEP_ID") != "batch" and "SLURM_SRUN_COMM_HOST" in environment


def _pair(environment: Mapping[str, str], place: str, size: str) -> Shard:
    found = _number(environment, place), _number(environment, size)
    if not 0 <= found[0] < found[1]:
        raise OptionError(f"{place}={found[0]} and {size}={found[1]} make no sense: give --shard WHICH/OF")
    return found


def _number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    said = environment.get(name, default)
    if not said.isdigit():
        raise OptionError(f"{name} in the environment is {said!r}, not a number: give --shard WHICH/OF")
    return int(said)
