"""The ranks of a run: this process's rank, the world size, and the few collectives outside DeepSpeed.

Ranks are started by torchrun or srun (one task per device). Without either, the process is a world of one.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from albef.errors import ConfigError
from pipeline.engine import rendezvous
from pipeline.engine.launch import launch_environment

T = TypeVar("T")
log = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=30)
"""A collective that waits longer than this for another rank fails."""
COLLECTIVES_IN = ("torch/distributed/", "deepspeed/comm/")
"""In the paths of their code: a thread with one of these in its stack is waiting for other ranks."""


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
        """Rank 0, which writes the run folder and logs to the console."""
        return self.rank == 0

    def agree(self, flag: bool) -> bool:
        """True on every rank if it is True on any."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)])  # on the CPU, by gloo: the host does not wait for the device
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
        """Rank 0's value, on every rank. For small picklable values, outside the step."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather_objects(self, value: T) -> list[T]:
        """Every rank's value in rank order, on every rank. For small picklable values, outside the step."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box


def init(*, timeout: timedelta = TIMEOUT) -> World:
    """Join the process group (NCCL for CUDA tensors, gloo for those on the CPU) and take this rank's device.

    `DS_ACCELERATOR=cpu` keeps a machine with a GPU on the CPU. It is DeepSpeed's own variable, so both agree.

    Raises: ConfigError when the launcher's variables contradict each other, a rank does not start, or there are more
        ranks than GPUs.
    """
    os.environ.update(launch_environment(os.environ))
    rank, local_rank, size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    device = _device(local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    prepare_deepspeed_import()
    import deepspeed  # takes seconds, which users of World alone need not wait

    # On the CPU DeepSpeed compiles a shared-memory all-reduce with g++ at its first start, while all ranks wait for it:
    # minutes on a busy machine, and it needs a compiler. gloo's own all-reduce serves as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    quiet_deepspeed()
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        # torchrun has its own store, and has started all ranks
        if size > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
            store = rendezvous.meet(rank, size, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        deepspeed.init_distributed(
            dist_backend=backend,
            auto_mpi_discovery=False,  # it imports mpi4py when a variable is missing
            verbose=False,
            timeout=timeout,
        )
    return World(rank=rank, local_rank=local_rank, size=size, device=device)


def prepare_deepspeed_import() -> None:
    """Set DS_ACCELERATOR=cpu if there is no GPU, before the import of DeepSpeed, which would print a note to stdout."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


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


def join_ranks(device: str) -> World:
    """Join the process group if a launcher started several ranks; a single process needs none.

    Raises: ConfigError when there is no such device.
    """
    wanted = local_device(device)
    if int(launch_environment(os.environ)["WORLD_SIZE"]) == 1:
        return World(rank=0, local_rank=0, size=1, device=wanted)
    if ":" in device:
        raise ConfigError(f"--device {device} with several ranks", "use --device cuda: each rank takes its own device")
    if wanted.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    return init()


def local_device(device: str) -> torch.device:
    """The device of a --device flag: cpu, cuda, cuda:N, or auto.

    Raises: ConfigError when there is no such device.
    """
    has_cuda = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
    try:
        wanted = torch.device(("cuda" if has_cuda else "cpu") if device == "auto" else device)
    except RuntimeError as error:
        raise ConfigError(f"--device {device} is no device", "cpu, cuda, cuda:N or auto") from error
    if wanted.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device} is not supported", "cpu, cuda, cuda:N or auto")
    count = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index if ":" in device else 0) >= count:
        raise ConfigError(f"--device {device}: torch finds {count} CUDA devices here", "use --device cpu, or auto")
    return wanted


def quiet_deepspeed() -> None:
    """Limit DeepSpeed's logger, which writes INFO to stdout, to warnings on stderr. Call after its import."""
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
