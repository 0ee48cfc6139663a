"""metrics.jsonl as a power cut, a full disk or an editor leaves it: no line of ours is lost, none of theirs is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from albef.errors import ConfigError
from pipeline.run.metrics_file import SET_ASIDE, parse_line, truncate_jsonl

DAMAGED = {
    "half a line": b'{"step": 7, "train/lo',
    "zeros after a power cut": bytes(5000),
    "not UTF-8": b'{"step": 3, "train/loss": 1.0, "\xff\xfe": 2}',
    "a list": b"[1, 2, 3]",
    "a number": b"12",
    "a word": b"null",
    "no step": b'{"train/loss": 1.0}',
    "a step that is text": b'{"step": "3", "train/loss": 1.0}',
    "a step that is not whole": b'{"step": 3.5}',
    "a step that is no number": b'{"step": true}',
    "a negative step": b'{"step": -1}',
    "a loss that is text": b'{"step": 3, "train/loss": "1.0"}',
    "NaN, which JSON does not have": b'{"step": 3, "train/loss": NaN}',
    "a number beyond all floats": b'{"step": 3, "time": 1' + b"0" * 400 + b"}",
    "a number with more digits than Python reads": b'{"step": 1' + b"0" * 5000 + b"}",
    "two lines in one": b'{"step": 3}{"step": 4}',
    "nested a hundred thousand deep": b'{"step": 3, "x": ' + b"[" * 100_000,
    "a huge line": b'{"step": 3, "x": "' + b"y" * (2 << 20) + b'"}',
    "UTF-16": '{"step": 3}'.encode("utf-16"),
}


def line(step: int) -> bytes:
    return json.dumps({"step": step, "time": 1.5, "train/loss": 10.0 * step, "optim/grad_norm": None}).encode() + b"\n"


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_moved_aside_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    """Between two good lines and at the end of the file, where the next line would be glued to it."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1) + damage + b"\n" + line(2) + line(9) + damage)
    assert parse_line(damage) is None
    assert truncate_jsonl(path, 5) == json.loads(line(2))
    assert path.read_bytes() == line(1) + line(2)
    assert (tmp_path / SET_ASIDE).read_bytes() == 2 * (damage + b"\n")
    assert "2 lines, 2 of them damaged, are moved to metrics_set_aside.jsonl" in caplog.text
    assert truncate_jsonl(path, 5) == json.loads(line(2))
    assert (tmp_path / SET_ASIDE).read_bytes() == 2 * (damage + b"\n"), "a second start finds nothing to move"


def test_a_whole_file_is_left_as_it_is(tmp_path: Path) -> None:
    """Not even written again: a validation line and a training line of one step are both kept."""
    path = tmp_path / "metrics.jsonl"
    content = b'{"step": 0, "val/x": 1.0}\n' + line(1) + line(2) + b'{"step": 2, "val/x": 2.0}\n'
    path.write_bytes(content)
    before = path.stat()
    assert truncate_jsonl(path, 2) == json.loads(line(2))
    assert (path.read_bytes(), path.stat().st_ino) == (content, before.st_ino)
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_lines_of_windows_and_of_editors_count(tmp_path: Path) -> None:
    """A byte order mark, CR LF, and no newline at the end."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line(1).replace(b"\n", b"\r\n") + line(2).rstrip())
    assert truncate_jsonl(path, 2) == json.loads(line(2))
    assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == [1, 2]


def test_a_run_that_starts_again_from_step_0_keeps_the_lines_of_the_one_before_aside(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(0) + line(1))
    assert truncate_jsonl(path, -1) == {}
    assert path.read_bytes() == b""
    assert (tmp_path / SET_ASIDE).read_bytes() == line(0) + line(1)


def test_what_is_no_file_is_refused_by_name_and_a_missing_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert truncate_jsonl(path, 3) == {}
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("nowhere")):
        make()
        with pytest.raises(ConfigError, match=r"metrics\.jsonl is not a file"):
            truncate_jsonl(path, 3)
        path.rmdir() if path.is_dir() else path.unlink()
