"""A pool of spawned processes that neither outlives its parent nor hangs when a worker is killed."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from data_prep.errors import UnfinishedError
from data_prep.workers.orphans import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


@contextlib.contextmanager
def open_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose work is dropped, started or not, when an exception leaves the block.

    Raises: UnfinishedError when a worker was killed, which mostly means that memory ran out.
    """
    children_before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    try:
        try:
            yield pool
        except BaseException:
            for worker in set(multiprocessing.active_children()) - children_before:
                worker.kill()  # not waited for: nothing is published half, and the work can take minutes
            raise
    except BrokenProcessPool as error:
        raise UnfinishedError(
            "a worker process was killed, most likely because memory ran out",
            "run the same command again to resume, with a smaller --processes or more memory",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Results in the items' order, with at most `ahead` of them in memory."""
    running: collections.deque[Future[Result]] = collections.deque()
    for item in items:
        running.append(pool.submit(work, item))
        if len(running) >= ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _begin_worker() -> None:
    _keep_freed_memory()
    warnings.filterwarnings("ignore", module="PIL")  # a damaged file is counted with its reason, not logged
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    end_with_parent(parent.pid)


def _keep_freed_memory() -> None:
    """Let glibc hand the memory of one image to the next; otherwise the kernel maps the pages again for each.

    When two workers encode 3,000 images of 640 x 480, this lowers the share of system time from 43% to 9%.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 8 << 20)  # anything larger goes back at once
        libc.mallopt(M_TRIM_THRESHOLD, 64 << 20)
