"""Lines of the log: what a stranger's file brings into them cannot act on a terminal or look like another line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline import logs


def test_a_record_is_one_line_without_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the console and in the file; a traceback keeps its lines, which are indented."""
    log = logging.getLogger("pipeline.test_logs")
    logs.setup_console()
    handler = logs.add_file(tmp_path / "rank_0.log")
    try:
        log.warning("sample %s", "\x1b[2J\x1b]0;owned\x07\n12:00:00 saved step_9\u202egpj")
        try:
            raise ValueError("name \x1b[31m\nforged")
        except ValueError:
            log.exception("it failed")
    finally:
        logs.remove(handler)
    for text in (capsys.readouterr().err, (tmp_path / "rank_0.log").read_text(encoding="utf-8")):
        first, second, third, *trace = text.splitlines()
        assert first.endswith(r"sample \x1b[2J\x1b]0;owned\x07") and second == r"  12:00:00 saved step_9\u202egpj"
        assert third.endswith("it failed") and trace[0] == "  Traceback (most recent call last):"
        assert all(line.startswith("  ") for line in trace) and trace[-2:] == [
            r"  ValueError: name \x1b[31m",
            "  forged",
        ]
