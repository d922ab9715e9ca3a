"""Threads that wait by spinning: on a busy machine they hold the cores that the others wait for, and a pass takes many times longer.

OpenMP reads how its threads wait when torch is loaded, so a process has to choose before that. This file imports no torch.
"""

import os
from collections.abc import Mapping, MutableMapping

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables with which the user says how threads wait."""


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Let threads sleep while they wait, unless the user has chosen otherwise. It acts on what imports torch afterwards."""
    if not any(environment.get(name) for name in CHOICES):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


def crowding(threads: int, load: float, cores: int, environment: Mapping[str, str]) -> str:
    """One line for a process whose threads spin while others want their cores; empty if that is not so.

    `load` is the mean number of processes that ran or waited over the last minute, before this one computes.
    """
    if threads < 2 or threads + load < cores + 0.5 or any(environment.get(name) for name in CHOICES):
        return ""
    return (
        f"this machine is busy (load {load:.1f} on {cores} cores), and {threads} threads that spin while they wait can make the model many "
        "times slower: set OMP_WAIT_POLICY=PASSIVE in the environment before torch is imported, or call torch.set_num_threads(1)"
    )


def crowding_here(threads: int) -> str:
    """`crowding` at this moment. Empty where the operating system tells no load."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return crowding(threads, load, os.cpu_count() or 1, os.environ)
