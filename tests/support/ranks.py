"""Run a function on several CPU ranks and return each one's result."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PRELOADED = ["torch", "timm", "transformers", "deepspeed", "tests.support.ranks", "tests.support.preloaded"]
_own_server: int | None = None


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout_s: float = 120.0,
    process_group: bool = True,
) -> list[Any]:
    """Call `function(rank, world_size, *args)` in `world_size` processes joined by gloo.

    `function` is a top-level function of a module that can be imported. A test module qualifies: pytest's importlib
    mode names it by its path from the root (`tests.albef.objective.test_queue`), the root is on `sys.path`, and the
    ranks inherit that path. Arguments and results travel by pickle, tensors by value.

    Every rank has RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment and
    one thread. Without a GPU the ranks are forked from a server that has imported torch, deepspeed and the trainer,
    which saves seconds a rank; with one they are spawned, because CUDA does not survive a fork. They are not daemons: a
    rank may have loader workers.

    Args:
        timeout_s: after it every rank is killed.
        process_group: False leaves `torch.distributed` uninitialised, for tests of the initialisation itself.

    Returns: the results, by rank.

    Raises:
        RuntimeError: a rank raised or died; the message holds the traceback of every rank that failed.
        TimeoutError: the ranks did not finish in time.
    """
    with Ranks(function, world_size, *args, timeout_s=timeout_s, process_group=process_group) as ranks:
        return ranks.results()


class Ranks:
    """The processes of `run_ranks` while they run, for tests that kill them. Leaving the context kills what is left."""

    def __init__(
        self,
        function: Callable[..., Any],
        world_size: int,
        *args: Any,
        timeout_s: float = 120.0,
        process_group: bool = True,
    ) -> None:
        self._timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        environment = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size), **_address()}
        context = _context()
        folder = self._folder.name
        self.processes = [
            context.Process(
                target=_run_rank, args=(function, rank, world_size, args, folder, environment, process_group, timeout_s)
            )
            for rank in range(world_size)
        ]

    def __enter__(self) -> Ranks:
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._folder.cleanup()

    def alive(self) -> bool:
        """Whether any rank runs."""
        return any(process.is_alive() for process in self.processes)

    def kill(self) -> None:
        """SIGKILL to every rank that still runs, and wait for their ends."""
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                process.kill()
        for process in self.processes:
            if process.pid is not None:
                process.join()

    def results(self) -> list[Any]:
        """Wait for all ranks; what `run_ranks` returns and raises."""
        late = _join(self.processes, self._timeout_s)
        self.kill()
        return _collect(
            Path(self._folder.name), [process.exitcode for process in self.processes], late, self._timeout_s
        )


def _context() -> Any:
    if torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    _start_own_fork_server()
    return multiprocessing.get_context("forkserver")


def _start_own_fork_server() -> None:
    """A process has one fork server. One that a training loader started has no deepspeed: each rank would import it."""
    global _own_server
    server: Any = forkserver._forkserver
    server.set_forkserver_preload(PRELOADED)
    if server._forkserver_pid not in (None, _own_server):
        os.close(server._forkserver_alive_fd)  # it ends with its last worker
        server._forkserver_pid = server._forkserver_alive_fd = None
    server.ensure_running()
    _own_server = server._forkserver_pid


def _address() -> dict[str, str]:
    """A loopback address with a port that was free a moment ago; the group itself meets in a file and needs no port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}


def _join(ranks: list[Any], timeout_s: float) -> bool:
    """Wait for all. Once one has failed, the others get five seconds, because they may be waiting for it.

    Returns: True when time ran out while none had failed.
    """
    deadline = time.monotonic() + timeout_s
    failed = False
    while alive := [process for process in ranks if process.is_alive()]:
        if not failed and any(process.exitcode not in (0, None) for process in ranks):
            failed, deadline = True, min(deadline, time.monotonic() + 5.0)
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            return not failed
        wait([process.sentinel for process in alive], timeout=remaining_s)
    return False


def _collect(folder: Path, exit_codes: list[int | None], late: bool, timeout_s: float) -> list[Any]:
    world_size = len(exit_codes)
    reports = {
        rank: (folder / f"error_{rank}.txt").read_text()
        for rank in range(world_size)
        if (folder / f"error_{rank}.txt").exists()
    }
    silent = {r: code for r, code in enumerate(exit_codes) if code != 0 and r not in reports}
    if late:
        raise TimeoutError(f"ranks {sorted(silent)} of {world_size} were still running after {timeout_s:g} s")
    if reports or silent:
        parts = [f"rank {rank} of {world_size} raised\n{text}" for rank, text in reports.items()]
        parts += [f"rank {rank} of {world_size} ended with exit code {code}" for rank, code in silent.items()]
        raise RuntimeError("\n".join(parts))
    return [pickle.loads((folder / f"result_{rank}.pickle").read_bytes()) for rank in range(world_size)]


def _run_rank(
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    args: tuple[Any, ...],
    folder: str,
    environment: dict[str, str],
    process_group: bool,
    timeout_s: float,
) -> None:
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    # The server they are forked from may have been started by the training loader, with a scheduler's signals blocked.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        if process_group:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/store",
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=timeout_s),
            )
        result = pickle.dumps(function(rank, world_size, *args))
        Path(folder, f"result_{rank}.pickle").write_bytes(result)
        if dist.is_initialized():
            dist.destroy_process_group()
    except BaseException:
        Path(folder, f"error_{rank}.txt").write_text(traceback.format_exc())
        raise SystemExit(1) from None
