"""Whose share is whose. Mutants caught: RANK counted from 1; the array's first task not subtracted; a batch script taken for a
task; tasks of an array's jobs given the same share; the last shard refused."""

import pytest

from noiser.errors import OptionError
from noiser.experiments.shards import read_shard

SRUN = {"SLURM_STEP_ID": "0", "SLURM_SRUN_COMM_HOST": "host"}
ARRAY = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"}


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", **SRUN}, (3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),
        ({"SLURM_ARRAY_TASK_ID": "1", **ARRAY}, (0, 3)),
        ({"SLURM_ARRAY_TASK_ID": "3", **ARRAY}, (2, 3)),
        ({"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_STEP": "4", "SLURM_ARRAY_TASK_COUNT": "3"}, (2, 3)),
        ({"SLURM_ARRAY_TASK_ID": "2", **ARRAY, "SLURM_PROCID": "1", "SLURM_NTASKS": "2", **SRUN}, (3, 6)),
    ],
)
def test_the_launcher_says_it(environment, shard):
    assert read_shard(None, environment) == shard
    assert read_shard("1/5", environment) == (1, 5)
    assert read_shard("0/1", environment) == (0, 1)


def test_every_task_of_every_array_job_has_its_own():
    found = {
        read_shard(None, {"SLURM_ARRAY_TASK_ID": str(task), **ARRAY, "SLURM_PROCID": str(rank), "SLURM_NTASKS": "4", **SRUN})
        for task in (1, 2, 3)
        for rank in range(4)
    }
    assert found == {(place, 12) for place in range(12)}


@pytest.mark.parametrize("wrong", ["2/2", "1", "-1/2", "a/b", "1/2/3", "", "\u0661/\u0662"])
def test_what_is_no_share_is_an_error(wrong):
    with pytest.raises(OptionError, match="--shard wants WHICH/OF"):
        read_shard(wrong, {})


@pytest.mark.parametrize("environment", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"SLURM_ARRAY_TASK_ID": "1"}])
def test_a_launcher_that_makes_no_sense_is_an_error(environment):
    with pytest.raises(OptionError, match="give --shard"):
        read_shard(None, environment)
