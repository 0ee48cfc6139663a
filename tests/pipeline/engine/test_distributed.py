"""Ranks: from the launcher's variables, and their collectives on real gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from albef.errors import ConfigError
from pipeline.config.sections import divisors
from pipeline.data.sampling.lanes import lanes_of_rank
from pipeline.engine.launch import first_host, launch_environment, port_of_job
from tests.support.ranks import run_ranks

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "head", "MASTER_PORT": "2345"}
SRUN = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "123456"}


def test_torchrun_s_variables_are_kept() -> None:
    """Also inside a Slurm job, where both are set."""
    assert launch_environment(TORCHRUN) == TORCHRUN
    assert launch_environment(SRUN | TORCHRUN) == TORCHRUN


def test_slurm_s_variables_are_mapped() -> None:
    """The job's first host and its own port, unless the script has set them."""
    found = launch_environment(SRUN | {"SLURM_JOB_NODELIST": "gpu[07-09,12],cpu1"})
    assert found == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(port_of_job(123456)),
    }
    found = launch_environment(SRUN | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4000"})
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.7", "4000")


def test_a_step_smaller_than_its_job_counts_its_own_tasks() -> None:
    """srun -n2 in a job of 8 tasks is a world of two."""
    assert launch_environment(SRUN | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"})["WORLD_SIZE"] == "2"


def test_no_launcher_is_a_world_of_one() -> None:
    """With an IP address and a free port, so that DeepSpeed need not look for MPI."""
    found = launch_environment({})
    assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == (
        "0",
        "0",
        "1",
        "127.0.0.1",
    )
    assert 1024 <= int(found["MASTER_PORT"]) < 65536


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "gpu7"},
        {"SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_HET_SIZE": "2"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "gpu[1-4]"},
        SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},
    ],
    ids=["batch script of one task", "of a heterogeneous job", "salloc", "interactive step"],
)
def test_a_single_process_of_a_job_is_a_world_of_its_own(environment: dict[str, str]) -> None:
    """On a free port: another one of the same job may run beside it."""
    found, again = launch_environment(environment), launch_environment(environment)
    assert (found["RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")
    assert found["MASTER_PORT"] != again["MASTER_PORT"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "set RANK, WORLD_SIZE but not LOCAL_RANK"),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "RANK 2 and WORLD_SIZE 2"),
        ({"RANK": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "RANK x"),
        ({"RANK": "0", "LOCAL_RANK": "first", "WORLD_SIZE": "2"}, "LOCAL_RANK first"),
        (TORCHRUN | {"MASTER_PORT": "http"}, "MASTER_PORT http is no port"),
        (TORCHRUN | {"MASTER_PORT": "70000"}, "MASTER_PORT 70000 is no port"),
        (SRUN | {"SLURM_PROCID": "0"}, "Slurm job 123456 has 8 tasks, but srun did not start this process"),
        (SRUN | {"SLURM_STEP_ID": "0", "SLURM_HET_SIZE": "2"}, "heterogeneous Slurm job of 2 parts"),
    ],
)
def test_variables_that_do_not_fit_are_refused(environment: dict[str, str], message: str) -> None:
    """Rather than waiting for a rank that never comes."""
    with pytest.raises(ConfigError, match=message):
        launch_environment(environment)


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[1-3]", "n1"), ("a[007,9]b,c", "a007b"), ("gpu[03-05]x[1-2]", "gpu03x1")],
)
def test_the_first_host_of_slurm_s_list(nodelist: str, host: str) -> None:
    """As `scontrol show hostnames` prints it first."""
    assert first_host(nodelist) == host


def test_lanes_are_shared_in_order_and_whole() -> None:
    """Every world size that divides them gives each lane to one rank; another is refused with those that do."""
    for size in divisors(12):
        assert [lane for rank in range(size) for lane in lanes_of_rank(rank, size, 12)] == list(range(12))
    with pytest.raises(ConfigError, match="12 lanes cannot be shared evenly by 5 ranks") as refusal:
        lanes_of_rank(0, 5, 12)
    assert "1 or 2 or 3 or 4 or 6 or 12" in refusal.value.hint


def talk(rank: int, _world_size: int) -> dict[str, Any]:
    from pipeline.engine import distributed

    world = distributed.init()
    world.barrier()
    answers = {
        "world": (world.rank, world.local_rank, world.size, world.device.type, world.is_main),
        "agree": [world.agree(rank == 1), world.agree(False)],
        "broadcast": world.broadcast_object({"from": rank}),
        "gather": world.gather_objects(rank * 10),
        "rows": world.gather_rows(torch.tensor([rank, rank + 0.5])).tolist(),
    }
    distributed.shutdown()
    return answers


@pytest.mark.parametrize("size", [1, 2])
def test_ranks_agree_broadcast_and_gather(size: int) -> None:
    """Started by DeepSpeed over gloo; a world of one gives the same answers without a partner."""
    for rank, answers in enumerate(run_ranks(talk, size, process_group=False)):
        assert answers == {
            "world": (rank, rank, size, "cpu", rank == 0),
            "agree": [size == 2, False],
            "broadcast": {"from": 0},
            "gather": [0, 10][:size],
            "rows": [[0.0, 0.5], [1.0, 1.5]][:size],
        }
