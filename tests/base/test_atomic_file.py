"""A file is there whole, or as it was before."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from base.atomic_file import replacing, write_json, write_text
from tests.support.small_disk import run_on_small_disk


def test_a_file_gets_its_new_text_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    """The next write removes what a killed process left under the temporary name."""
    path = tmp_path / "latest"
    (tmp_path / ".latest.tmp").write_text("half of a longer te")
    write_text(path, "one\n")
    write_text(path, "zwei, ü\n", temporary=tmp_path / ".latest.7-00ff00ff.tmp")
    assert path.read_bytes() == "zwei, ü\n".encode()
    assert [entry.name for entry in tmp_path.iterdir()] == ["latest"]


def test_json_is_indented_and_ends_its_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None]})
    text = (tmp_path / "a.json").read_text()
    assert text.startswith('{\n  "b": [\n    1,') and text.endswith("\n}\n") and json.loads(text) == {"b": [1, None]}


def test_an_error_in_the_block_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """Also Ctrl-C; and an error before anything was written is the one that is raised."""
    path = tmp_path / "table"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as beside:
        beside.write_text("after")
        assert beside.name == f".table.{os.getpid()}.tmp"
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="no table"), replacing(path):
        raise ValueError("no table")
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"table": "before"}


def write_too_much(disk: Path) -> tuple[int | None, dict[str, str]]:
    """The errno of a write that does not fit, and what is on the disk after it."""
    write_text(disk / "a", "before")
    try:
        write_text(disk / "a", "x" * (2 << 20))
    except OSError as error:
        return error.errno, {entry.name: entry.read_text() for entry in disk.iterdir()}
    return None, {}


def test_a_full_disk_is_an_error_and_the_file_is_as_it_was(tmp_path: Path) -> None:
    """2 MiB onto a disk of 1 MiB: the old text stays, and its room is free again."""
    assert run_on_small_disk(write_too_much, tmp_path / "disk", mib=1) == (errno.ENOSPC, {"a": "before"})
