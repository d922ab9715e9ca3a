"""The share of a run that a process takes: from `--shard`, or from the launcher that started the process."""

import os
import re
from collections.abc import Mapping

from noiser.errors import OptionError

Shard = tuple[int, int]
"""(index from 0, number of shards)."""


def read_shard(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """`0/4` as (0, 4). Without text: the launcher's share, else everything.

    torchrun sets RANK and WORLD_SIZE. Under SLURM the task of the step and the task of the array are combined. Raises OptionError for
    text or variables that are no shard.
    """
    if text is not None:
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
        if not match or not int(match[1]) < int(match[2]):
            raise OptionError(f"--shard wants WHICH/OF, counted from 0: the last of four is 3/4; got {text!r}")
        return int(match[1]), int(match[2])
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _pair(environment, "RANK", "WORLD_SIZE")
    task = _pair(environment, "SLURM_PROCID", "SLURM_NTASKS") if "SLURM_PROCID" in environment and _is_srun_task(environment) else (0, 1)
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return task
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", "0")
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", "1")
    index = (_number(environment, "SLURM_ARRAY_TASK_ID") - first) // max(1, step)
    size = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    if not 0 <= index < size:
        raise OptionError(f"SLURM's array says task {index} of {size}: give --shard WHICH/OF")
    return index * task[1] + task[0], size * task[1]


def local_device(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """The device of this process. With `auto`, and several GPUs, it is the GPU with the process's local rank."""
    rank = environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", ""))
    if device != "auto" or not rank.isdigit():
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(rank) % count}" if count > 1 else device


def _is_srun_task(environment: Mapping[str, str]) -> bool:
    """False for a batch script: it has SLURM_PROCID=0 too, but it is not one of the tasks."""
    return "SLURM_STEP_ID" in environment and environment.get("SLURM_STEP_ID") != "batch" and "SLURM_SRUN_COMM_HOST" in environment


def _pair(environment: Mapping[str, str], index_name: str, size_name: str) -> Shard:
    index, size = _number(environment, index_name), _number(environment, size_name)
    if not 0 <= index < size:
        raise OptionError(f"{index_name}={index} and {size_name}={size} make no sense: give --shard WHICH/OF")
    return index, size


def _number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    text = environment.get(name, default)
    if not text.isdigit():
        raise OptionError(f"{name} in the environment is {text!r}, not a number: give --shard WHICH/OF")
    return int(text)
