"""A pool that loses a worker raises an error."""

from __future__ import annotations

import os
import signal

import pytest

from data_prep.errors import UnfinishedError
from data_prep.workers.worker_pool import in_order, open_pool


def _double(number: int) -> int:
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def test_results_come_in_order_and_a_killed_worker_is_an_error() -> None:
    """A worker that the kernel kills for memory ends the work with a message instead of a pool that waits for ever."""
    with open_pool(2) as pool:
        assert list(in_order(pool, _double, range(7), ahead=3)) == [0, 2, 4, 6, 8, 10, 12]
    with pytest.raises(UnfinishedError, match="a worker process was killed"), open_pool(1) as pool:
        list(in_order(pool, _double, [1, -1, 2], ahead=2))
