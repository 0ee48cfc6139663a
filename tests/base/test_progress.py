"""Progress is a bar on a terminal and lines in a log."""

from __future__ import annotations

import io

import pytest

from base import progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


class Gone(Terminal):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, which a test moves."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_lines_with_rate_and_time_left(now: list[float]) -> None:
    """100 of 400 rows new in 10 s: 10 a second, so 30 s for the 300 left; nothing between two due lines."""
    log = io.StringIO()
    shown = progress.Progress("rows", 500, done_before=100, stream=log)
    now[0] += 5
    shown.update(150)
    now[0] += 5
    shown.update(200, "190 kept")
    shown.print_line("img2dataset stopped early")
    now[0] += 3600
    shown.finish(500)
    assert log.getvalue().splitlines() == [
        "rows 200/500 (40%)  10.0/s  30s left  190 kept",
        "img2dataset stopped early",
        "rows 500/500 (100%)  0.1/s  in 1h00m",
    ]


def test_a_terminal_gets_one_bar_and_messages_above_it(now: list[float]) -> None:
    terminal = Terminal()
    shown = progress.Progress("rows", 48, stream=terminal)
    now[0] += 1
    shown.update(24)
    shown.print_line("img2dataset stopped early")
    now[0] += 1
    shown.finish(48)
    assert terminal.getvalue() == (
        "\r\033[K[############------------]  rows 24/48 (50%)  24.0/s  1s left"
        "\r\033[Kimg2dataset stopped early\n"
        "\r\033[K[########################]  rows 48/48 (100%)  24.0/s  in 2s\n"
    )


def test_work_outlives_its_terminal(now: list[float]) -> None:
    shown = progress.Progress("rows", 48, stream=Gone())
    now[0] += 1
    shown.update(24)
    shown.finish(48)


@pytest.mark.parametrize(("total", "done"), [(0, 0), (48, 0), (48, 50)])
def test_no_time_left_is_shown_where_none_is_known(now: list[float], total: int, done: int) -> None:
    """Nothing to do, nothing done yet, more done than was announced."""
    log = io.StringIO()
    shown = progress.Progress("rows", total, stream=log)
    now[0] += 10
    shown.update(done)
    assert log.getvalue().endswith("? left\n")


def test_a_log_of_parts_gets_each_end_and_no_more_than_is_due(now: list[float]) -> None:
    """A thousand calls within ten seconds: only the last is reported; a second part starts its own clock."""
    lines: list[str] = []
    report = progress.ProgressOfParts(stream=io.StringIO(), log=lines.append)
    for done in range(1, 1001):
        now[0] += 0.001
        report("encode", done, 1000)
    now[0] += 20
    report("match", 0, 400)
    now[0] += 20
    report("match", 100, 400)
    report("match", 400, 400)
    assert lines == [
        "encode 1000/1000 (100%)  1001.0/s  in 1s",
        "match 100/400 (25%)  5.0/s  1m00s left",
        "match 400/400 (100%)  20.0/s  in 20s",
    ]


def test_a_terminal_line_of_parts_is_rewritten_and_ended(now: list[float]) -> None:
    """Each line begins by returning to the left; only the last of a part ends the line."""
    terminal = Terminal()
    report = progress.ProgressOfParts(stream=terminal)
    report("encode", 0, 2)
    now[0] += 1
    report("encode", 1, 2)
    report("encode", 2, 2)
    written = terminal.getvalue()
    assert written.startswith("\r\033[K[############------------]  encode 1/2")
    assert written.count("\n") == 1 and written.endswith("\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.2, "45s"), (725, "12m05s"), (11_220, "3h07m"), (187_200, "2d04h"), (0, "0s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    """The two largest units."""
    assert progress.duration(seconds) == text
