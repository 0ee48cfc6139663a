"""The ranks of a run: who am I, how many are we, and the few things the ranks say to each other.

Started by torchrun, by srun (one task a device) or by nothing at all: then it is a world of one.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from albef.errors import ConfigError
from pipeline.data.sampling.lanes import lanes_of_rank
from pipeline.engine import rendezvous
from pipeline.run import logs
from samples.quote import quote

T = TypeVar("T")
log = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=30)
"""A collective that waits longer than this for another rank fails."""
NODE_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among its peers. Its methods are collectives: call them on every rank, in the same order."""

    rank: int
    local_rank: int
    """Rank among the processes of this machine: the index of its device."""
    size: int
    """Number of ranks; WORLD_SIZE."""
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Rank 0, which writes the run folder and talks to the console."""
        return self.rank == 0

    def lanes(self, num_lanes: int) -> range:
        """The lanes (micro-batches of the global batch) this rank takes, as accumulation steps.

        Raises: ConfigError when the ranks do not divide the lanes.
        """
        return lanes_of_rank(self.rank, self.size, num_lanes)

    def agree(self, flag: bool) -> bool:
        """True on every rank if it is True on any."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)])  # on the CPU, by gloo: the host does not wait for the device's queue
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes.item())

    def gather_rows(self, values: torch.Tensor) -> torch.Tensor:
        """Every rank's (n,) vector: (size, n), in rank order, on every rank. One collective."""
        if self.size == 1:
            return values[None]
        rows = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(rows, values)
        return torch.stack(rows)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def broadcast_object(self, value: T) -> T:
        """Rank 0's value, on every rank. For small picklable things, not in the step."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather_objects(self, value: T) -> list[T]:
        """Every rank's value in rank order, on every rank. For small picklable things, not in the step."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box


def init(*, timeout: timedelta = TIMEOUT) -> World:
    """Join the process group (NCCL for CUDA tensors, gloo for those on the CPU) and take this rank's device.

    `DS_ACCELERATOR=cpu` keeps a machine with a GPU on the CPU: DeepSpeed's own variable, so that both agree.

    Raises: ConfigError when the launcher's variables do not fit together, a rank does not come, or there are more ranks
        than GPUs.
    """
    os.environ.update(launch_environment(os.environ))
    rank, local_rank, size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    device = _device(local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    prepare_deepspeed_import()
    import deepspeed  # takes seconds: not for those who only want to read this file's World

    # On the CPU DeepSpeed compiles a shared-memory all-reduce with g++ at its first start, while all ranks wait for it:
    # minutes on a busy machine, and a compiler that need not be there. gloo's own all-reduce does.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logs.quiet_deepspeed()
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        # torchrun's ranks meet at a store of its own, and are all there
        if size > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
            store = rendezvous.meet(rank, size, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        deepspeed.init_distributed(
            dist_backend=backend,
            auto_mpi_discovery=False,  # it looks for mpi4py whenever a variable is missing
            verbose=False,
            timeout=timeout,
        )
    return World(rank=rank, local_rank=local_rank, size=size, device=device)


def prepare_deepspeed_import() -> None:
    """Tell DeepSpeed that there is no GPU where there is none, before it is imported and says so on stdout."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def launch_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables torch and DeepSpeed read (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), all five.

    Taken from torchrun's where they are set, else from Slurm's (SLURM_PROCID, SLURM_LOCALID and the number of tasks of
    the step), else those of a world of one; a world of one has a free port.

    Raises: ConfigError when only some of RANK, LOCAL_RANK, WORLD_SIZE are set, they contradict each other, or Slurm has
        several tasks of which srun did not start this one.
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
        # nobody else comes, and another single process of this job may run here
        found["MASTER_ADDR"], found["MASTER_PORT"] = "127.0.0.1", str(_free_port())
    return found


def _slurm_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, LOCAL_RANK and WORLD_SIZE of a task."""
    rank = environment["SLURM_PROCID"]
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or "1"
    in_step = any(environment.get(name) for name in ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS"))
    if in_step and (environment.get("SLURM_HET_SIZE") or "1") != "1":
        raise ConfigError(
            f"a heterogeneous Slurm job of {quote(environment['SLURM_HET_SIZE'])} parts: each counts its tasks apart",
            "submit a job of one component; or set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT yourself",
        )
    if not in_step and rank == "0" and tasks != "1":  # a batch script has a number as well: that of the first task
        raise ConfigError(
            f"Slurm job {quote(environment.get('SLURM_JOB_ID', '?'))} has {quote(tasks)} tasks, but srun did not start "
            "this process: it would be rank 0 and wait for the others",
            "srun python -m pipeline ..., or sbatch slurm/pretrain.sh and slurm/evaluate.sh, which do that; "
            "for a single process: env -u SLURM_PROCID python -m pipeline ...",
        )
    return {"RANK": rank, "LOCAL_RANK": environment.get("SLURM_LOCALID") or "0", "WORLD_SIZE": tasks}


def first_host(nodelist: str) -> str:
    """The first host of Slurm's compressed list: `gpu[03-05,9],cpu1` -> `gpu03`; as first_host of slurm/lib.sh."""
    first = re.match(r"(?:[^\[\],]|\[[^\]]*\])*", nodelist)
    assert first is not None  # it may match nothing
    return re.sub(r"\[([^\],:-]*)[^\]]*\]", r"\1", first[0])


def port_of_job(job_id: int) -> int:
    """A port all tasks of a Slurm job agree on, and two jobs on one node hardly ever share: 20000 to 29999."""
    return 20_000 + job_id % 10_000


def rank_of(environment: Mapping[str, str]) -> int:
    """This process's rank as the launcher's variables tell it, before any process group; 0 without a launcher."""
    text = environment.get("RANK") or environment.get("SLURM_PROCID") or "0"
    return int(text) if text.isdigit() else 0


def _device(local_rank: int) -> torch.device:
    if os.environ.get("DS_ACCELERATOR") == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        # srun with --gpus-per-task shows each task only its own device
        if count == 1 and "SLURM_LOCALID" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
            return torch.device("cuda", 0)
        raise ConfigError(
            f"rank with LOCAL_RANK {local_rank} has no GPU: this machine shows {count}",
            f"start at most {count} ranks a machine, or set DS_ACCELERATOR=cpu to train on the CPU",
        )
    return torch.device("cuda", local_rank)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
