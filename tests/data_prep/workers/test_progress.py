"""Progress is a bar on a terminal and lines in a log; a pool that loses a worker raises."""

from __future__ import annotations

import io
import os
import signal

import pytest

from data_prep.errors import UnfinishedError
from data_prep.workers import progress
from data_prep.workers.worker_pool import in_order, open_pool


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_lines_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 of 400 rows new in 10 s: 10 a second, so 30 s for the 300 left; nothing between two due lines."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = io.StringIO()
    shown = progress.Progress("rows", 500, done_before=100, stream=log)
    now[0] += 5
    shown.update(150)
    now[0] += 5
    shown.update(200, "190 kept")
    now[0] += 3600
    shown.finish(500)
    assert log.getvalue().splitlines() == [
        "rows 200/500 (40%)  10.0/s  0:30 left  190 kept",
        "rows 500/500 (100%)  0.1/s  0:00 left",
    ]


def test_a_terminal_gets_one_bar_and_messages_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    terminal = Terminal()
    shown = progress.Progress("rows", 48, stream=terminal)
    now[0] += 1
    shown.update(24)
    shown.print_line("img2dataset stopped early")
    now[0] += 1
    shown.finish(48)
    written = terminal.getvalue()
    assert "[############------------]  rows 24/48 (50%)  24.0/s  0:01 left" in written
    assert "\r\033[Kimg2dataset stopped early\n" in written and written.endswith("0:00 left\n")


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
