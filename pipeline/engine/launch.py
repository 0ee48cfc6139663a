"""The launcher's variables (torchrun, srun or none): rank, world size, where the ranks meet. Imports no torch."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

from albef.errors import ConfigError
from samples.quote import quote

NODE_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")


def launch_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables torch and DeepSpeed read (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), all five.

    Taken from torchrun's variables if they are set, else from Slurm's (SLURM_PROCID, SLURM_LOCALID and the number of
    tasks of the step), else those of a world of one. A world of one takes a free port.

    Raises: ConfigError when only some of RANK, LOCAL_RANK, WORLD_SIZE are set, they contradict each other, or this is a
        Slurm job with several tasks and srun did not start this process.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    given = [name for name in names if environment.get(name)]
    address, port = "127.0.0.1", 29_500
    if "RANK" in given or "WORLD_SIZE" in given:
        if missing := [name for name in names if name not in given]:
            raise ConfigError(
                f"the launcher set {', '.join(given)} but not {', '.join(missing)}",
                "start with torchrun or srun, or unset them all for a single process",
            )
        found = {name: environment[name] for name in names}
    elif environment.get("SLURM_PROCID"):
        found = _slurm_ranks(environment)
        if nodes := next((environment[name] for name in NODE_LISTS if environment.get(name)), ""):
            address = first_host(nodes)
        job = environment.get("SLURM_JOB_ID", "")
        port = port_of_job(int(job) if job.isdecimal() else 0)
    else:
        found = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    found["MASTER_ADDR"] = environment.get("MASTER_ADDR") or address
    found["MASTER_PORT"] = environment.get("MASTER_PORT") or str(port)
    whole = {name: int(text) if text.isdecimal() else -1 for name, text in found.items() if name != "MASTER_ADDR"}
    if not (0 <= whole["RANK"] < whole["WORLD_SIZE"] and whole["LOCAL_RANK"] >= 0):
        raise ConfigError(
            f"the launcher set RANK {quote(found['RANK'])} and WORLD_SIZE {quote(found['WORLD_SIZE'])} "
            f"(LOCAL_RANK {quote(found['LOCAL_RANK'])})",
            "ranks run from 0 to WORLD_SIZE - 1; start with torchrun or srun, or unset them for a single process",
        )
    if not 0 < whole["MASTER_PORT"] < 65_536:
        raise ConfigError(f"MASTER_PORT {quote(found['MASTER_PORT'])} is no port", "1 to 65535; or unset it")
    if whole["WORLD_SIZE"] == 1 and not environment.get("MASTER_PORT"):
        # no other rank will connect, and another single process of this job may run here
        found["MASTER_ADDR"], found["MASTER_PORT"] = "127.0.0.1", str(_free_port())
    return found


def _slurm_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, LOCAL_RANK and WORLD_SIZE of a task."""
    rank = environment["SLURM_PROCID"]
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or "1"
    in_step = any(environment.get(name) for name in ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS"))
    if in_step and (environment.get("SLURM_HET_SIZE") or "1") != "1":
        raise ConfigError(
            f"a heterogeneous Slurm job of {quote(environment['SLURM_HET_SIZE'])} parts: each has its own ranks",
            "submit a job of one component; or set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT yourself",
        )
    if not in_step and rank == "0" and tasks != "1":  # a batch script also has SLURM_PROCID: that of the first task
        raise ConfigError(
            f"Slurm job {quote(environment.get('SLURM_JOB_ID', '?'))} has {quote(tasks)} tasks, but srun did not start "
            "this process: it would be rank 0 and wait for the others",
            "srun python -m pipeline ..., or sbatch slurm/pretrain.sh and slurm/evaluate.sh, which do that; "
            "for a single process: env -u SLURM_PROCID python -m pipeline ...",
        )
    return {"RANK": rank, "LOCAL_RANK": environment.get("SLURM_LOCALID") or "0", "WORLD_SIZE": tasks}


def first_host(nodelist: str) -> str:
    """The first host of Slurm's compressed list: `gpu[03-05,9],cpu1` -> `gpu03`; like first_host of slurm/lib.sh."""
    first = re.match(r"(?:[^\[\],]|\[[^\]]*\])*", nodelist)
    assert first is not None  # it may match nothing
    return re.sub(r"\[([^\],:-]*)[^\]]*\]", r"\1", first[0])


def port_of_job(job_id: int) -> int:
    """A port, 20000 to 29999: the same for all tasks of a Slurm job, and rarely that of another job on the node."""
    return 20_000 + job_id % 10_000


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
