"""Finding, verifying and pruning checkpoints; saving and resuming for real is in test_train.py."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from albef.errors import CheckpointError
from pipeline.checkpoints import layout
from pipeline.checkpoints.layout import find_checkpoint, prune_checkpoints, verify_checkpoint
from pipeline.config.sections import CheckpointConfig
from tests.support.checkpoints import published


def taken(folder: Path) -> tuple[str, int] | None:
    """Folder and step of the checkpoint that a run would resume from."""
    found = find_checkpoint(folder)
    return (found[0].name, found[1].step) if found else None


def test_the_checkpoint_that_latest_names_is_taken(tmp_path):
    """It is not always the one with the highest step: a newer one may be whole but not yet published."""
    published(tmp_path, 20)
    published(tmp_path, 10)
    assert taken(tmp_path) == ("step_00000010", 10)


def pipe(path: Path) -> None:
    """What used to be a file is a pipe that nobody writes to: reading it would wait forever."""
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a byte flipped": lambda path: (path / "model.pt").write_bytes(b"weightz"),
    "a file cut short": lambda path: (path / "model.pt").write_bytes(b"wei"),
    "a file gone": lambda path: (path / "model.pt").unlink(),
    "a file is a folder": lambda path: folder(path / "model.pt"),
    "a file is a pipe": lambda path: pipe(path / "model.pt"),
    "a file is a loop of links": lambda path: loop(path / "model.pt"),
    "no meta": lambda path: (path / "meta.json").unlink(),
    "half a meta": lambda path: (path / "meta.json").write_text('{"format": 1'),
    "an empty meta": lambda path: (path / "meta.json").write_bytes(b""),
    "a meta of nulls": lambda path: (path / "meta.json").write_bytes(bytes(400)),
    "a meta that is a list": lambda path: (path / "meta.json").write_text("[1]"),
    "a meta nested deep": lambda path: (path / "meta.json").write_text("[" * 100_000),
    "a meta of a number of many digits": lambda path: (path / "meta.json").write_text("9" * 10_000),
    "meta is a folder": lambda path: folder(path / "meta.json"),
    "meta is a pipe": lambda path: pipe(path / "meta.json"),
    "meta is a loop of links": lambda path: loop(path / "meta.json"),
    "another key": lambda path: edited(path / "meta.json", '"bytes"', '"cytes"'),
    "another step": lambda path: edited(path / "meta.json", '"step": 20', '"step": 92'),
    "another world size": lambda path: edited(path / "meta.json", '"world_size": 1', '"world_size": 3'),
    "another checksum": lambda path: edited(path / "meta.json", '"checksum": "', '"checksum": "0'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, caplog, damage):
    """For any fault of the newest, the one before is taken, and the log names the fault and the choice."""
    published(tmp_path, 10)
    DAMAGE[damage](published(tmp_path, 20))
    with caplog.at_level(logging.WARNING):
        assert taken(tmp_path) == ("step_00000010", 10)
    assert "step_00000020 cannot be used" in caplog.text
    assert "resuming from step_00000010" in caplog.text
    assert max(len(record.getMessage()) for record in caplog.records) < 200 + 3 * len(str(tmp_path))


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_file_that_cannot_be_read_is_damage(tmp_path, monkeypatch, error):
    """The tests run as root, which may read everything: the failure is the digest's."""
    published(tmp_path, 10)
    newest = published(tmp_path, 20)
    digest = layout.digest

    def failing(file: Path) -> str:
        if file.parent == newest:
            raise OSError(error, os.strerror(error), str(file))
        return digest(file)

    monkeypatch.setattr(layout, "digest", failing)
    assert taken(tmp_path) == ("step_00000010", 10)


LATEST: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "nulls": lambda path: path.write_bytes(bytes(13)),
    "not UTF-8": lambda path: path.write_bytes(b"\xf3tep_00000020"),
    "a megabyte": lambda path: path.write_bytes(b"step_00000020" * 80_000),
    "a path": lambda path: path.write_text("../../elsewhere/step_00000020"),
    "an absolute path": lambda path: path.write_text("/step_00000020"),
    "a person's copy": lambda path: path.write_text("step_00000010_good"),
    "a step that is not there": lambda path: path.write_text("step_00000030"),
    "a folder": folder,
    "a pipe": pipe,
    "a loop of links": loop,
}


@pytest.mark.parametrize("damage", LATEST)
def test_the_newest_whole_checkpoint_is_taken_for_any_latest(tmp_path, caplog, damage):
    """And it is logged, unless `latest` is merely missing. Publishing the next one puts it right."""
    published(tmp_path, 10)
    published(tmp_path, 20)
    LATEST[damage](tmp_path / "latest")
    with caplog.at_level(logging.WARNING):
        assert taken(tmp_path) == ("step_00000020", 20)
    assert ("latest cannot be used" in caplog.text) == (damage != "missing")
    published(tmp_path, 30)
    assert (tmp_path / "latest").read_text() == "step_00000030"
    assert taken(tmp_path) == ("step_00000030", 30)


def test_what_people_keep_beside_checkpoints_is_neither_taken_nor_removed(tmp_path):
    """Copies under names like a step's, a file, a link to nowhere, an unfinished folder with notes; and pruning."""
    published(tmp_path, 2)
    names = (
        "step_00000002_good",
        "step_00000008.bak",
        "step_2",
        "step_00000002 (copy)",
        "step_000000002",
        "latest.bak",
    )
    for name in names:
        shutil.copytree(tmp_path / "step_00000002", tmp_path / name)
    (tmp_path / "step_00000004").write_text("notes")
    (tmp_path / "step_00000006").symlink_to(tmp_path / "nowhere")
    (tmp_path / "step_00000001").mkdir()
    (tmp_path / "step_00000001" / "README").write_text("notes")
    before = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert taken(tmp_path) == ("step_00000002", 2)
    published(tmp_path, 100)
    assert prune_checkpoints(tmp_path, CheckpointConfig(keep_last=1)) == ["step_00000002"]
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert before - left == {"step_00000002", "step_00000002/model.pt", "step_00000002/meta.json"}


def test_steps_are_ordered_by_number(tmp_path):
    """Step 100,000,000 has one digit more than the names have room for, and would sort before step 99,999,999."""
    for step in (99_999_998, 99_999_999, 100_000_000):
        published(tmp_path, step)
    (tmp_path / "latest").unlink()
    assert taken(tmp_path) == ("step_100000000", 100_000_000)
    (tmp_path / "latest").write_text("step_100000000")
    assert prune_checkpoints(tmp_path, CheckpointConfig(keep_last=2)) == ["step_99999998"]


def test_no_checkpoint_is_none_not_an_error(tmp_path):
    """A fresh run folder, and one whose only save was killed, both begin at step 0."""
    assert find_checkpoint(tmp_path / "nowhere") is None
    assert find_checkpoint(tmp_path) is None
    (tmp_path / "step_00000005").mkdir()
    assert find_checkpoint(tmp_path) is None


def test_a_published_checkpoint_without_its_meta_is_not_buried_under_a_new_run(tmp_path):
    """`latest` proves that it was finished: the run does not start at step 0."""
    (published(tmp_path, 10) / "meta.json").unlink()
    with pytest.raises(CheckpointError, match=r"none of the 1 checkpoints .* has no meta.json"):
        find_checkpoint(tmp_path)


def test_damaged_checkpoints_are_not_buried_under_a_new_run(tmp_path):
    """When every published checkpoint is damaged the run is refused, naming a fault, instead of beginning at step 0."""
    for step in (10, 20):
        (published(tmp_path, step) / "model.pt").write_bytes(b"w")
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints .* has 1 bytes, 7 were saved"):
        find_checkpoint(tmp_path)


def test_the_error_names_the_short_file_and_how_much_is_missing(tmp_path):
    """Numbers in the message, so that a full disk is recognised for what it is."""
    path = published(tmp_path, 10, content=b"0123456789")
    (path / "model.pt").write_bytes(b"0123")
    with pytest.raises(CheckpointError, match=r"model\.pt has 4 bytes, 10 were saved"):
        verify_checkpoint(path)


def test_retention_keeps_the_newest_and_the_marked(tmp_path):
    """keep_last 2 and keep_every 30 over steps 10..70."""
    for step in range(10, 80, 10):
        published(tmp_path, step)
    removed = prune_checkpoints(tmp_path, CheckpointConfig(keep_last=2, keep_every=30))
    assert removed == ["step_00000010", "step_00000020", "step_00000040", "step_00000050"]
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_00000030", "step_00000060", "step_00000070"]


def test_damaged_newer_checkpoints_do_not_push_out_the_good_one(tmp_path):
    """The run fell back from 60 and 70 to 40 and has just saved 50: with keep_last 1 it is 50 that stays, not 70."""
    for step in (40, 60, 70, 50):
        published(tmp_path, step)
    assert prune_checkpoints(tmp_path, CheckpointConfig(keep_last=1)) == ["step_00000040"]
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_00000050", "step_00000060", "step_00000070"]


def test_a_damaged_checkpoint_does_not_count_as_one_that_is_kept(tmp_path):
    """keep_last 2 of steps 10, 20, 30, of which 20 is cut short: 10 and 30 can be resumed from, and stay."""
    for step in (10, 20, 30):
        published(tmp_path, step)
    (tmp_path / "step_00000020" / "model.pt").write_bytes(b"w")
    assert prune_checkpoints(tmp_path, CheckpointConfig(keep_last=2)) == []


def test_retention_never_removes_the_only_checkpoint(tmp_path):
    """keep_last 0 is read as 1."""
    published(tmp_path, 10)
    assert prune_checkpoints(tmp_path, CheckpointConfig(keep_last=0)) == []
