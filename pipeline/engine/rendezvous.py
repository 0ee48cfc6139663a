"""Wait until all ranks have started, before there is a process group; a waiting rank logs which are missing."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from albef.errors import ConfigError

log = logging.getLogger(__name__)

LOG_EVERY_S = 15.0
CONNECT_S = 60.0
"""If an open connection gets no answer for this long, another program listens at the port."""
GIVE_UP_S = 600.0
"""Imports from a slow file system may take a rank minutes; one that is missing after this will not start."""
HINT = (
    "start every rank, with srun or torchrun (slurm/pretrain.sh and slurm/evaluate.sh do); for a single process unset "
    "RANK, WORLD_SIZE and SLURM_PROCID. Ranks meet at MASTER_ADDR and MASTER_PORT: on rank 0's machine, without a "
    "firewall between"
)


def meet(
    rank: int, size: int, host: str, port: int, *, log_every_s: float = LOG_EVERY_S, give_up_s: float = GIVE_UP_S
) -> dist.Store:
    """Wait until all ranks are at the store that rank 0 opens at host:port; every `log_every_s` log which are missing.

    Raises: ConfigError when the port is taken, or a rank is missing after `give_up_s`.
    """
    began = logged = time.monotonic()

    def wait_for(whom: Callable[[], str]) -> None:
        nonlocal logged
        now = time.monotonic()
        if now - began >= give_up_s:
            raise ConfigError(f"{whom()} did not come to {host}:{port} in {now - began:.0f} s", HINT)
        if now - logged >= log_every_s:
            logged = now
            waited = f"rank {rank} of {size} has waited {now - began:.0f} s at {host}:{port}"
            log.warning("%s for %s: %s", waited, whom(), HINT)
        time.sleep(min(1.0, 0.05 + (now - began) / 10))

    if rank != 0:
        while not _somebody_listens(host, port):  # torch's own attempts would fill the log with C++ stacks
            wait_for(lambda: "rank 0")
    store = _open(host, port, size, is_master=rank == 0)
    keys = [f"rank_{number}_is_here" for number in range(size)]

    def missing() -> str:
        numbers = [str(number) for number, key in enumerate(keys) if not store.check([key])]
        few = ", ".join(numbers[:8]) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
        return f"rank{'' if len(numbers) == 1 else 's'} {few}"

    try:
        store.set(keys[rank], socket.gethostname())
        while not store.check(keys):
            wait_for(missing)
    except dist.DistNetworkError as error:
        raise ConfigError(f"rank 0 has left {host}:{port} before all {size} ranks came", HINT) from error
    return store


def _somebody_listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError:
        return False
    return True


def _open(host: str, port: int, size: int, *, is_master: bool) -> dist.Store:
    try:
        return dist.TCPStore(
            host,
            port,
            size,
            is_master=is_master,
            timeout=timedelta(seconds=CONNECT_S),
            wait_for_workers=False,
            multi_tenant=True,  # a process that opens the port again shares its own store
        )
    except dist.DistError as error:
        taken = not is_master or "address already in use" in str(error).lower()
        raise ConfigError(
            f"port {port} of {host} is taken by another process" if taken else f"cannot listen at {host}:{port}",
            "set MASTER_PORT to a free port, the same for all ranks, and MASTER_ADDR to the machine of rank 0",
        ) from error
