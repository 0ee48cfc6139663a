"""What removing a checkpoint removes: what a save wrote, and nothing that a person put there."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.checkpoints.layout import prune_checkpoints
from pipeline.checkpoints.removal import claim, record_of, unpublish
from pipeline.config.sections import CheckpointConfig
from tests.support.checkpoints import published

ROOT = Path(__file__).parents[3]
NAME = "step_00000004"
FILES = ["mp_rank_00_model_states.pt", "average.safetensors", "model_config.json", "random_rank_00000.safetensors"]
"""What a save of some task on one rank writes."""


def tree(folder: Path) -> set[str]:
    """Everything below a folder, links not followed."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def killed_save(folder: Path) -> Path:
    """What a save leaves that is killed while it writes."""
    claim(folder / NAME, FILES)
    (folder / NAME / "mp_rank_00_model_states.pt").write_bytes(b"half")
    (folder / NAME / "average.safetensors").write_bytes(b"whole")
    (folder / NAME / ".random_rank_00000.safetensors.4711.tmp").write_bytes(b"half")
    (folder / NAME / ".meta.json.tmp").write_text("{")
    return folder / NAME


def test_what_a_save_wrote_is_removed_finished_or_not(tmp_path):
    """Also a finished one of an earlier version, which has no record, and an empty folder, the first thing made."""
    assert unpublish(killed_save(tmp_path))
    assert unpublish(published(tmp_path, 4))
    (tmp_path / NAME).mkdir()
    assert unpublish(tmp_path / NAME)
    assert unpublish(tmp_path / NAME)  # nothing there
    assert tree(tmp_path) == {"latest"}


def test_a_damaged_checkpoint_of_ours_is_removed(tmp_path):
    """Its record shows whose it is when its meta.json cannot."""
    path = killed_save(tmp_path)
    (path / "meta.json").write_text("{")
    assert unpublish(path)
    assert tree(tmp_path) == set()


def test_files_that_a_person_put_into_a_checkpoint_stay(tmp_path):
    """Notes, a folder, a link to a big file of theirs and a file in the place of one of ours."""
    path = killed_save(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"big")
    (path / "README.md").write_text("notes")
    (path / "mine.safetensors").write_bytes(b"another model")
    (path / ".mine.safetensors.4711.tmp").write_bytes(b"another model")
    (path / "plots").mkdir()
    (path / "average.safetensors").unlink()
    (path / "average.safetensors").symlink_to(tmp_path / "weights.bin")
    (path / "model_config.json").mkdir()
    assert not unpublish(path)
    kept = "README.md", "mine.safetensors", ".mine.safetensors.4711.tmp", "plots", "average.safetensors", FILES[2]
    assert tree(tmp_path) == {"weights.bin", NAME, *(f"{NAME}/{name}" for name in kept)}


def test_of_a_finished_checkpoint_only_listed_files_are_removed(tmp_path):
    """A person's weights beside ours stay, also under a name as safetensors draws them, and the folder with them."""
    path = published(tmp_path, 4)
    for name in ("teacher.safetensors", ".tmpA1b2C3", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        (path / name).write_bytes(b"mine")
    before = tree(path)
    assert not unpublish(path)
    assert tree(path) == before - {"model.pt", "meta.json"}


@pytest.mark.parametrize("record", ["made before the names were listed\n", "", "\n../../mine.txt\n", b"\xff\n", None])
def test_a_record_without_names_covers_what_meta_lists_and_no_more(tmp_path, record):
    """Of an earlier version, cut off, forged, damaged, a folder: a finished checkpoint goes, a killed save stays."""
    (tmp_path / "mine.txt").write_text("mine")
    checkpoints = tmp_path / "checkpoints"
    for path in (published(checkpoints, 4), killed_save(checkpoints / "killed")):
        record_of(path).unlink(missing_ok=True)
        if record is None:
            record_of(path).mkdir()
        else:
            record_of(path).write_bytes(record if isinstance(record, bytes) else record.encode())
    assert unpublish(checkpoints / NAME) == (record is not None)
    assert not (checkpoints / NAME / "model.pt").exists()
    assert not unpublish(checkpoints / "killed" / NAME)
    assert {"mp_rank_00_model_states.pt", "average.safetensors"} <= tree(checkpoints / "killed" / NAME)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_process_killed_while_it_writes_leaves_nothing_that_stays(tmp_path):
    """For real, in the middle of a file of tensors, which safetensors writes under a name of its own."""
    claim(tmp_path / NAME, FILES)
    code = (
        "import sys, torch; from pathlib import Path; from albef.weights.tensor_file import write_tensors\n"
        "while True: write_tensors(Path(sys.argv[1]), {'weight': torch.zeros(50_000_000)})"
    )
    file = tmp_path / NAME / "average.safetensors"
    writer = subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=ROOT)
    deadline = time.monotonic() + 100
    while not any(name.startswith(".tmp") for name in tree(tmp_path / NAME)):
        assert writer.poll() is None and time.monotonic() < deadline
    writer.kill()
    writer.wait()
    left = tree(tmp_path / NAME)
    assert unpublish(tmp_path / NAME), left
    assert tree(tmp_path) == set(), left


@pytest.mark.parametrize(
    "what", ["a file", "a link to nowhere", "a link to a folder", "notes", "a copy of another step"]
)
def test_what_is_not_ours_is_renamed_when_a_save_needs_its_name(tmp_path, caplog, what):
    """Nothing is lost, the save has its folder, and the log names where it is now. Twice."""
    elsewhere = published(tmp_path / "elsewhere", 2)
    before = tree(elsewhere)
    for name in (f"{NAME}.kept", f"{NAME}.kept_2"):
        if what == "a file":
            (tmp_path / NAME).write_text("mine")
        elif what == "a link to nowhere":
            (tmp_path / NAME).symlink_to("nowhere")
        elif what == "a link to a folder":
            (tmp_path / NAME).symlink_to(elsewhere)
        elif what == "notes":
            (tmp_path / NAME).mkdir()
            (tmp_path / NAME / "teacher.safetensors").write_text("mine")
        else:
            shutil.copytree(elsewhere, tmp_path / NAME)
        mine = tree(tmp_path / NAME)
        with caplog.at_level(logging.WARNING):
            claim(tmp_path / NAME, FILES)
        assert tree(tmp_path / NAME) == {record_of(tmp_path / NAME).name}
        assert tree(tmp_path / name) == mine and os.path.lexists(tmp_path / name)
        assert f"renamed to {name}" in caplog.text
        unpublish(tmp_path / NAME)
    assert tree(elsewhere) == before


def test_a_link_to_a_checkpoint_elsewhere_is_not_pruned(tmp_path):
    """Moved to a bigger disk and linked: neither the link nor what it leads to goes."""
    moved = published(tmp_path / "elsewhere", 4)
    before = tree(tmp_path / "elsewhere")
    folder = tmp_path / "checkpoints"
    published(folder, 5)
    (folder / NAME).symlink_to(moved)
    published(folder, 6)
    assert prune_checkpoints(folder, CheckpointConfig(keep_last=1)) == ["step_00000005"]
    assert (folder / NAME).is_symlink() and tree(tmp_path / "elsewhere") == before


def test_what_a_killed_save_left_is_pruned_later(tmp_path):
    """The run took another step than the killed one saved: nothing would ever remove it."""
    killed_save(tmp_path)
    published(tmp_path, 6)
    assert prune_checkpoints(tmp_path, CheckpointConfig()) == [NAME]
    assert tree(tmp_path) == {"latest", "step_00000006", "step_00000006/model.pt", "step_00000006/meta.json"}


def test_a_file_that_cannot_be_removed_costs_a_warning(tmp_path, caplog, monkeypatch):
    """A busy file: meta.json goes first, the record last, so that a later save or pruning knows the rest as ours."""
    path = killed_save(tmp_path)
    (path / "meta.json").write_text("{}")
    unlink = Path.unlink

    def busy(self: Path, missing_ok: bool = False) -> None:
        if self.name.startswith("mp_rank"):
            raise OSError(16, "Device or resource busy", str(self))
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", busy)
    with caplog.at_level(logging.WARNING):
        assert not unpublish(path)
    assert "Device or resource busy" in caplog.text
    assert "meta.json" not in tree(path)
    assert record_of(path).is_file()
    monkeypatch.undo()
    published(tmp_path, 6)
    assert prune_checkpoints(tmp_path, CheckpointConfig()) == [NAME]


@pytest.mark.skipif(os.getuid() != 0, reason="root, to become another user")
def test_a_folder_of_another_user_is_a_warning_in_pruning_and_an_error_of_the_save(caplog):
    """What may not be written is neither removed nor a traceback."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's folder is closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        published(folder, 2)
        published(folder, 4)
        before = tree(folder)
        os.seteuid(65534)
        try:
            with caplog.at_level(logging.WARNING):
                assert prune_checkpoints(folder, CheckpointConfig(keep_last=1)) == []
            with pytest.raises(PermissionError):
                claim(folder / "step_00000006", FILES)
        finally:
            os.seteuid(0)
        assert "step_00000002 is not removed, or not all of it: Permission denied" in caplog.text
        assert tree(folder) == before
