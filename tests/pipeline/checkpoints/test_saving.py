"""Saving while training continues, and when there is no room: real runs on two ranks."""

from __future__ import annotations

import resource
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints.layout import find_checkpoint
from pipeline.checkpoints.saving import host_copy
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import digest, newest, run
from tests.support.wrapped_task import WrappedTask, pretrain_with

SMALL = 100_000
"""Bytes a file may grow to on the rank without room: metrics and logs fit, no rank's part of a checkpoint does."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps at ZeRO 1, saved in the background after every second; nothing is removed."""
    folder = tmp_path_factory.mktemp("alone")
    overrides = ["--deepspeed.config=zero1_fp32", "--checkpoint.save_every=2", "--checkpoint.keep_last=9"]
    return run(folder, "alone", ranks=2, overrides=overrides).parents[1]


def no_room(rank: int, _size: int, recipe: str, run_dir: str, overrides: list[str], first: int, last: int) -> str:
    """Train; while the steps `first` to `last` are taken the kernel refuses rank 1 files above SMALL bytes.

    A limit on a file's size acts on every writer as a full disk does: write(2) fails in mid-file.

    Returns: what ended the run.
    """
    from albef.errors import CheckpointError

    usual = resource.getrlimit(resource.RLIMIT_FSIZE)

    def before(_task, _engine, step):
        for thread in threading.enumerate():
            if thread.name.startswith("save-"):
                thread.join()  # so that each save meets the limit of its own step
        limited = rank == 1 and first <= step + 1 <= last
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, usual[1]) if limited else usual)

    try:
        return str(pretrain_with(partial(WrappedTask, before=before), recipe, run_dir, overrides))
    except CheckpointError as error:
        return f"error: {error.message} hint: {error.hint}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def log_of(run_dir: Path) -> str:
    """Rank 0's log."""
    return next(run_dir.glob("logs/*/rank_0.log")).read_text()


def test_a_checkpoint_is_of_its_step_though_training_continues(tmp_path, alone):
    """What a background save publishes is, to the bit, what a save that training waited for does."""
    overrides = ["--deepspeed.config=zero1_fp32", "--checkpoint.save_every=2", "--checkpoint.keep_last=9"]
    waited = run(tmp_path, "waited", ranks=2, overrides=[*overrides, "--checkpoint.asynchronous=false"]).parent
    saved = sorted(path.name for path in waited.glob("step_*"))
    assert saved == [f"step_{step:08d}" for step in (2, 4, 6, 8, 10)]
    for name in saved:
        assert digest(alone / "checkpoints" / name) == digest(waited / name), name


def test_a_rank_without_room_fails_the_save_not_the_run(tmp_path, alone):
    """Rank 1 cannot save steps 4 and 6: both are removed and warned of, step 2 stays, and the run ends as usual."""
    recipe = tiny_recipe(tmp_path)
    overrides = ["--deepspeed.config=zero1_fp32", "--checkpoint.save_every=2", "--checkpoint.keep_last=9"]
    arguments = (str(recipe), str(tmp_path / "full"), overrides, 4, 6)
    assert run_ranks(no_room, 2, *arguments, process_group=False, timeout_s=200) == ["0", "0"]
    folder = tmp_path / "full" / "checkpoints"
    assert sorted(path.name for path in folder.glob("step_*")) == [f"step_{step:08d}" for step in (2, 8, 10)]
    said = log_of(tmp_path / "full")
    for step in (4, 6):
        line = next(line for line in said.splitlines() if f"step_{step:08d} could not be saved" in line)
        assert "rank 1: " in line and "the latest checkpoint is still step_00000002" in line
    assert digest(newest(tmp_path / "full")) == digest(newest(alone))


def test_a_last_save_without_room_is_an_error_and_loses_nothing(tmp_path, alone):
    """The run must not end as if its last step were safe; the same command, with room, ends as the undisturbed run."""
    recipe = tiny_recipe(tmp_path)
    overrides = ["--deepspeed.config=zero1_fp32", "--checkpoint.save_every=4"]
    run_dir = tmp_path / "full"
    ends = run_ranks(no_room, 2, str(recipe), str(run_dir), overrides, 9, 10, process_group=False, timeout_s=200)
    for end in ends:
        assert end.startswith(f"error: step 10 could not be saved in {run_dir / 'checkpoints'}")
        assert end.endswith("the same command resumes from step_00000008")
    found = find_checkpoint(run_dir / "checkpoints")
    assert found is not None and found[1].step == 8
    run(tmp_path, "full", ranks=2, overrides=overrides)
    assert digest(newest(run_dir)) == digest(newest(alone))


def test_a_copy_shares_nothing_with_what_keeps_changing():
    """Tensors anywhere in the structure are copied, everything else is handed on, dictionaries keep their order."""
    tensor, lock = torch.arange(4.0), threading.Lock()
    value = {"b": [tensor, {"a": (tensor[1:], 3)}], "a": lock}
    copy = host_copy(value)
    tensor += 10
    assert copy["b"][0].tolist() == [0, 1, 2, 3]
    assert copy["b"][1]["a"][0].tolist() == [1, 2, 3]
    assert copy["b"][1]["a"][1] == 3 and copy["a"] is lock and list(copy) == ["b", "a"]
