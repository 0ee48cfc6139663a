"""Progress: one rewritten line on a terminal, sparse lines in a log."""

from __future__ import annotations

import io
import logging

import pytest

from pipeline.run.progress import Progress, duration


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_the_end_and_no_more_than_asked(caplog):
    """A thousand calls within ten seconds: only the last is reported; a second stage starts its own clock."""
    progress = Progress(io.StringIO(), every_s=10.0)
    with caplog.at_level(logging.INFO, logger="pipeline.run.progress"):
        for done in range(1, 1001):
            progress("encode", done, 1000)
        progress("match", 3, 3)
    assert [record.message.split(",")[0] for record in caplog.records] == ["encode: 1000 of 1000", "match: 3 of 3"]


def test_a_log_has_rate_and_time_left(caplog, monkeypatch):
    """100 of 400 after 20 s: 5/s, a minute left."""
    now = [1000.0]
    monkeypatch.setattr("pipeline.run.progress.time.monotonic", lambda: now[0])
    progress = Progress(io.StringIO(), every_s=10.0)
    with caplog.at_level(logging.INFO, logger="pipeline.run.progress"):
        progress("encode", 0, 400)
        now[0] += 20
        progress("encode", 100, 400)
    assert [record.message for record in caplog.records] == ["encode: 100 of 400, 5.0/s, 0:01:00 left"]


def test_a_terminal_line_is_rewritten_and_ended():
    """Each line begins by returning to the left; only the last ends the line."""
    terminal = Terminal()
    progress = Progress(terminal)
    progress("encode", 1, 2)
    progress("encode", 2, 2)
    written = terminal.getvalue()
    assert written.startswith("\rencode: ")
    assert written.count("\n") == 1
    assert written.endswith("\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.2, "45s"), (725, "12m05s"), (11_220, "3h07m"), (187_200, "2d04h"), (0, "0s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    """The two largest units."""
    assert duration(seconds) == text
