"""Lines of the log: what a stranger's file brings into them cannot act on a terminal or look like another line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from albef.errors import ConfigError
from base.standard_streams import release_unwritable
from pipeline.run import logs


def test_an_answer_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines stay lines; what is on them cannot act on the terminal."""
    logs.print_answer("run a\x1b[2J\n  source \u202eb")
    assert capsys.readouterr().out == "run a\\x1b[2J\n  source \\u202eb\n"


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


def test_a_log_on_a_full_disk_is_made_up_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report of it goes to the console, and into the file once there is room; nothing is printed as a traceback."""
    log, path = logging.getLogger("pipeline.test_logs"), tmp_path / "rank_0.log"
    logs.setup_console()
    handler = logs.add_file(path)
    try:
        log.info("one")
        path.rename(tmp_path / "aside")
        path.symlink_to("/dev/full")
        log.info("two")
        log.info("three")
        (tmp_path / "aside").replace(path)
        log.info("four")
    finally:
        logs.remove(handler)
    found = [line.partition(": ")[2] for line in path.read_text().splitlines()]
    assert found == [
        *("one", "two"),
        f"{path} cannot be written: No space left on device. Training continues; its records are kept in memory until "
        "there is room",
        *("three", "four"),
        f"{path} can be written again: 3 records were written late, 0 are lost",
    ]
    assert capsys.readouterr().err.count("rank_0.log cannot be written") == 1


def test_half_a_surrogate_pair_is_written_escaped(tmp_path: Path) -> None:
    """JSON can hold one, and no encoding of text has it. (Handed to the handler alone: pytest cannot report it.)"""
    handler = logs.FileLog(tmp_path / "rank_0.log")
    handler.handle(logging.makeLogRecord({"msg": "a cat \ud83d"}))
    handler.close()
    assert (tmp_path / "rank_0.log").read_bytes() == b"a cat \\ud83d\n"


def test_a_console_on_a_full_disk_counts_its_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """stderr may be a file: two lines are lost without a traceback, the next one is followed by their number."""
    log = logging.getLogger("pipeline.test_logs")
    with open("/dev/full", "w", buffering=1) as full, (tmp_path / "log").open("w") as room:
        monkeypatch.setattr("sys.stderr", full)
        logs.setup_console()
        (console,) = [handler for handler in logging.getLogger("pipeline").handlers if type(handler) is logs.Console]
        log.warning("one")
        log.warning("two")
        logs.print_error("nobody", "can read this")
        release_unwritable()
        monkeypatch.setattr("sys.stderr", room)
        console.setStream(room)
        log.warning("three")
    monkeypatch.undo()
    logs.setup_console()
    three, note = (tmp_path / "log").read_text().splitlines()
    assert three.endswith(" three") and note.startswith("2 lines before this one were not written in time")
    assert capfd.readouterr().err == ""


def test_an_answer_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(ConfigError, match="cannot be written to standard output: No space left on device"):
            logs.print_answer("42")
        release_unwritable()
