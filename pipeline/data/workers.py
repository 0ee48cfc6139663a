"""The worker processes of a training loader: how they start, how they end, and the error when one dies.

A fork server starts the workers. Forking the trainer itself is not safe: it runs threads (CUDA, gloo or NCCL,
TensorBoard), and a fork copies their locks in any state. Spawning is safe, but imports torch once per worker. The
server imports it once, and its children share the memory. They start with the signals of a scheduler blocked (see
`prepare_worker`).
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import math
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader

from albef.errors import DataError, ProcessKilledError
from base.errors import UserError
from pipeline.data import shared_memory, socket_folder
from pipeline.data.lane_task import STOP_SIGNALS, LaneBuilder, LaneResult, prepare_worker
from pipeline.data.sampling.lanes import LaneTask

POLL_S = 2
"""How often a waiting trainer checks that its workers are alive. It gets no signal when a child of the fork server
ends, so torch by itself would notice only at the end of its time-out."""
FORK_SERVER_LOST = 255
"""The exit code that multiprocessing reports for a worker whose fork server no longer responds."""
HINT_KILLED = (
    "most often for memory (dmesg, sacct): use fewer data.num_workers or a smaller data.prefetch if it happens again; "
    "the same command resumes from the last checkpoint"
)


class Workers:
    """The worker processes of one iteration; `stop` leaves none of them behind."""

    def __init__(self) -> None:
        self._iterator: Any = None

    def start(
        self, builder: LaneBuilder, tasks: Iterator[LaneTask], *, num_workers: int, prefetch: int, pin_memory: bool
    ) -> None:
        """Start `num_workers` processes on the tasks; with 0, `next` does them in this process.

        Raises: ProcessKilledError when the fork server was killed, DataError when there is no room for workers.
        """
        several = num_workers > 0
        loader: DataLoader = DataLoader(
            builder,
            batch_size=None,
            sampler=tasks,  # any iterable of indices is accepted, also an endless one
            num_workers=num_workers,
            prefetch_factor=prefetch if several else None,
            timeout=POLL_S if several else 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            worker_init_fn=prepare_worker,
            multiprocessing_context=start_fork_server() if several else None,
            generator=torch.Generator(),  # otherwise it would draw from the trainer's own generator
        )
        with _blocked_signals():
            try:
                self._iterator = iter(loader)
            except (ConnectionError, EOFError) as error:
                raise worker_error(FORK_SERVER_LOST) from error
            except OSError as error:  # from the semaphores, which are in shared memory
                full = error.errno == errno.EMFILE
                raise shared_memory.too_many_files() if full else shared_memory.no_room(str(error)) from error
        # Registered last, so it runs first: before multiprocessing joins workers, which block its SIGTERM.
        atexit.register(self.stop)

    def next(self, timeout_s: float) -> LaneResult:
        """The result of the next task, in the tasks' order.

        Raises: as `worker_error` when a worker died; DataError when a worker finds no shared memory, or no result
            arrives in timeout_s (0: no limit).
        """
        deadline = time.monotonic() + (timeout_s or math.inf)
        while True:
            try:
                return next(self._iterator)
            except (RuntimeError, EOFError, OSError) as error:
                self._raise_if_a_worker_died(error)
                if (explained := shared_memory.error_of(str(error))) is not None:
                    raise explained from error
                if "DataLoader timed out" not in str(error):  # torch/utils/data/dataloader.py
                    raise  # a worker's own traceback: a bug
                if time.monotonic() > deadline:
                    raise DataError(
                        f"no micro-batch arrived in {timeout_s:g} s",
                        "a mount hangs, or reading is far too slow: check the disk, or raise data.timeout_s",
                    ) from error

    def _raise_if_a_worker_died(self, error: Exception) -> None:
        if not isinstance(error, RuntimeError):  # the connection broke: its worker may take a moment to end
            connection.wait([process.sentinel for process in self._processes()], timeout=5.0)
        exit_codes = [process.exitcode for process in self._processes() if process.exitcode is not None]
        if exit_codes:
            raise worker_error(exit_codes[0]) from error

    def stop(self) -> None:
        atexit.unregister(self.stop)
        processes = self._processes()
        if processes:
            self._iterator._shutdown_workers()
        self._iterator = None
        for process in processes:
            if process.is_alive():  # blocked in a read that does not return
                process.kill()
            process.join()

    def _processes(self) -> list[Any]:
        return getattr(self._iterator, "_workers", [])


def worker_error(exit_code: int) -> UserError:
    """The error for a data worker that ended by itself.

    Args:
        exit_code: as multiprocessing reports it: -N after signal N.

    Returns: ProcessKilledError if another try may succeed, DataError if it would end the same way.
    """
    if exit_code in (FORK_SERVER_LOST, -signal.SIGKILL):
        lost = "a data worker" if exit_code < 0 else "the server that data workers are forked from"
        return ProcessKilledError(f"{lost} was killed", HINT_KILLED)
    if exit_code == -signal.SIGBUS:
        return shared_memory.no_room("SIGBUS ended it")
    if exit_code < 0:
        return DataError(
            f"a data worker was ended by {signal.Signals(-exit_code).name}",
            "a crash in native code: with data.num_workers 0 it happens in the trainer, which shows where",
        )
    return DataError(
        f"a data worker ended with exit code {exit_code}", "its last lines in the log or on the terminal show why"
    )


def start_fork_server(preload: Sequence[str] = ()) -> Any:
    """The fork server's context. Starts the server, without waiting for it, unless it already runs.

    Args:
        preload: modules that it imports for all workers, beside those that any task needs.

    Raises: ConfigError when no folder can hold its socket.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.data.lane_task", *preload])
    socket_folder.settle()
    with _blocked_signals():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block the signals of a scheduler in processes started here; for this process they are pending until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # starting the tracker unblocks some
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _as_it_is(result: Any) -> Any:
    return result
