"""`run_ranks`, which many tests stand on."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.support.ranks import run_ranks


def _sum_of_ranks(rank: int, world_size: int, start: float) -> tuple[torch.Tensor, str]:
    total = torch.tensor([start + rank])
    dist.all_reduce(total)
    return total, os.environ["LOCAL_RANK"] + "/" + os.environ["WORLD_SIZE"]


def _one_fails(rank: int, world_size: int) -> None:
    if rank == 1:
        raise ValueError("only rank one")
    dist.barrier()


def _one_dies(rank: int, world_size: int) -> None:
    if rank == 0:
        os._exit(7)
    dist.barrier()


def _sleep(rank: int, world_size: int) -> None:
    time.sleep(60)


def test_results_come_back_by_rank() -> None:
    """Two ranks sum 10 and 11: both hold 21, and each knows its place."""
    results = run_ranks(_sum_of_ranks, 2, 10.0)
    assert [(total.item(), place) for total, place in results] == [(21.0, "0/2"), (21.0, "1/2")]


def test_the_traceback_of_a_failing_rank_is_raised() -> None:
    """The error names the rank and shows the line that raised; a rank that waits for it does not hang the test."""
    with pytest.raises(RuntimeError, match=r'(?s)rank 1 of 2 raised.*raise ValueError\("only rank one"\)'):
        run_ranks(_one_fails, 2)


def test_a_rank_that_dies_silently_is_reported() -> None:
    """An exit without a traceback is reported by its exit code."""
    with pytest.raises(RuntimeError, match="rank 0 of 2 ended with exit code 7"):
        run_ranks(_one_dies, 2)


def test_ranks_that_hang_are_killed() -> None:
    """Past the time limit no rank lives on."""
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] of 2 were still running after 3 s"):
        run_ranks(_sleep, 2, timeout_s=3.0)
    assert time.monotonic() - started < 30
