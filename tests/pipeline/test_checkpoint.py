"""Finding, verifying and pruning checkpoints; saving and resuming for real is in test_train.py."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import pytest

from albef.errors import CheckpointError
from pipeline.checkpoint import (
    CheckpointConfig,
    find_checkpoint,
    new_meta,
    prune_checkpoints,
    read_meta,
    verify_checkpoint,
)


def published(folder: Path, step: int, *, content: bytes = b"weights", point: bool = True) -> Path:
    """A finished checkpoint folder of one file, written here from the layout's description, not by the code."""
    path = folder / f"step_{step:08d}"
    path.mkdir(parents=True)
    (path / "model.pt").write_bytes(content)
    meta = new_meta(
        run_name="test",
        step=step,
        epoch=0,
        samples_seen=step * 8,
        world_size=1,
        zero_stage=0,
        precision="fp32",
        config_hash="0",
    )
    files = {"model.pt": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    (path / "meta.json").write_text(json.dumps(dataclasses.asdict(meta) | {"files": files}))
    if point:
        (folder / "latest").write_text(path.name)
    return path


def test_the_checkpoint_that_latest_names_is_taken(tmp_path):
    """Not the one with the highest step: a newer one may be whole but not yet published."""
    published(tmp_path, 10)
    published(tmp_path, 20, point=False)
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert (found[0].name, found[1].step) == ("step_00000010", 10)


@pytest.mark.parametrize("damage", ["flip a byte", "truncate", "remove", "no meta", "garbled meta"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, caplog, damage):
    """Whatever is wrong with the newest, the one before is taken, and the log names the fault and the choice."""
    published(tmp_path, 10)
    newest = published(tmp_path, 20)
    if damage == "flip a byte":
        (newest / "model.pt").write_bytes(b"weightz")
    elif damage == "truncate":
        (newest / "model.pt").write_bytes(b"wei")
    elif damage == "remove":
        (newest / "model.pt").unlink()
    elif damage == "no meta":
        (newest / "meta.json").unlink()
    else:
        (newest / "meta.json").write_text('{"format": 1')
    with caplog.at_level(logging.WARNING):
        found = find_checkpoint(tmp_path)
    assert found is not None
    assert (found[0].name, found[1].step) == ("step_00000010", 10)
    assert "step_00000020 cannot be used" in caplog.text
    assert "going on from step_00000010" in caplog.text


def test_no_checkpoint_is_none_not_an_error(tmp_path):
    """A fresh run folder, and one whose only save was killed, both begin at step 0."""
    assert find_checkpoint(tmp_path) is None
    (tmp_path / "step_00000005").mkdir()
    assert find_checkpoint(tmp_path) is None


def test_damaged_checkpoints_are_not_buried_under_a_new_run(tmp_path):
    """When every published checkpoint is damaged the run is refused, naming a fault, instead of beginning at step 0."""
    for step in (10, 20):
        (published(tmp_path, step) / "model.pt").write_bytes(b"w")
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints .* has 1 bytes, 7 were saved"):
        find_checkpoint(tmp_path)


def test_the_error_says_which_file_is_short_and_by_how_much(tmp_path):
    """Numbers in the message, so that a full disk is recognised for what it is."""
    path = published(tmp_path, 10, content=b"0123456789")
    (path / "model.pt").write_bytes(b"0123")
    with pytest.raises(CheckpointError, match=r"model\.pt has 4 bytes, 10 were saved"):
        verify_checkpoint(path)


def test_a_meta_of_another_format_is_refused(tmp_path):
    """A checkpoint of a newer pipeline is not half understood."""
    path = published(tmp_path, 10)
    values = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(values | {"format": 2}))
    with pytest.raises(CheckpointError, match="format 1"):
        read_meta(path)


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


def test_retention_never_removes_the_only_checkpoint(tmp_path):
    """keep_last 0 is read as 1."""
    published(tmp_path, 10)
    assert prune_checkpoints(tmp_path, CheckpointConfig(keep_last=0)) == []
