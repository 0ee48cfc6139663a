"""The run folder: what is written, and which changes of the recipe a run accepts."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.errors import CheckpointError, ConfigError
from pipeline.config.resolve import load_config, resolve
from pipeline.engine.distributed import World
from pipeline.run.folder import RunFolder
from tests.support.checkpoints import published

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


def start(folder: Path, **recipe: Any) -> RunFolder:
    return RunFolder.open(folder / "run", resolve(recipe, name="r"), {"train_batch_size": 4}, ALONE)


def with_checkpoint(folder: RunFolder) -> None:
    """As much of a checkpoint as the folder looks for."""
    (folder.checkpoints / "step_00000010").mkdir()
    (folder.checkpoints / "step_00000010" / "meta.json").write_text("{}")


def test_everything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe that runs again, the JSON, and an env.json with nothing of the environment but an allow-list."""
    monkeypatch.setenv("MY_TOKEN", "hidden-value")
    folder = start(tmp_path, seed=3)
    assert load_config(folder.config) == resolve({"seed": 3}, name="r")
    assert json.loads((folder.path / "ds_config.json").read_text()) == {"train_batch_size": 4}
    environment = json.loads((folder.path / "env.json").read_text())
    assert environment["world_size"] == 1 and environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert "hidden-value" not in (folder.path / "env.json").read_text()
    assert (folder.path / "logs" / "local" / "rank_0.log").is_file()


def test_each_start_logs_to_its_job_and_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this rank logs lands in its file."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    folder = start(tmp_path)
    logging.getLogger("pipeline.anything").info("a line of this rank")
    assert "a line of this rank" in folder.log_file("77", 0).read_text()


def test_a_changed_recipe_is_logged_and_adopted(tmp_path: Path) -> None:
    """More epochs on a run with a checkpoint: logged with old and new value; config.yaml is the new one."""
    with_checkpoint(start(tmp_path, epochs=3))
    folder = start(tmp_path, epochs=5)
    assert "recipe change: epochs was 3, is 5" in folder.log_file("local", 0).read_text()
    assert load_config(folder.config).epochs == 5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"model": {"image_size": 128}}, "model.image_size was 256, is 128"),
        ({"batch": {"micro_batch_size": 32}}, "batch.micro_batch_size was 64, is 32"),
        ({"data": {"shuffle_window_shards": 9}}, "data.shuffle_window_shards was 8, is 9"),
        ({"data": {"manifests": ["a"], "weights": [2]}}, r"data.weights was None, is [2.0]"),
        ({"objective": {"queue_size": 7}}, "objective.queue_size was 65536, is 7"),
    ],
)
def test_what_a_run_cannot_change_is_refused(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    """Shapes and the order of the data, once there is a checkpoint; nothing in the folder changes."""
    folder = start(tmp_path)
    start(tmp_path, **change)  # no checkpoint yet: adopted
    start(tmp_path)
    with_checkpoint(folder)
    before = folder.config.read_text()
    with pytest.raises(ConfigError, match="cannot resume with this recipe") as refusal:
        start(tmp_path, **change)
    assert expected in refusal.value.message and str(folder.config) in refusal.value.hint
    assert folder.config.read_text() == before


def test_how_a_model_is_computed_may_change(tmp_path: Path) -> None:
    """A run that has run out of memory resumes with checkpointed activations; one that is slow, compiled."""
    with_checkpoint(start(tmp_path))
    folder = start(tmp_path, model={"activation_checkpointing": True, "compile": True, "kernels": "torch"})
    model = load_config(folder.config).model
    assert model.activation_checkpointing and model.compile and model.kernels == "torch"


def test_the_stop_file_of_the_run_before_is_removed(tmp_path: Path) -> None:
    """Otherwise the same command would stop at once."""
    folder = start(tmp_path)
    folder.stop_file.touch()
    start(tmp_path)
    assert not folder.stop_file.exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Here because a file has its name."""
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        start(tmp_path)


def test_resume_is_checked_against_what_was_found(tmp_path: Path) -> None:
    """must without a checkpoint, never with one; auto takes both."""
    folder = RunFolder(path=tmp_path)
    for found in (True, False):
        folder.check_resume("auto", found)
    folder.check_resume("must", True)
    folder.check_resume("never", False)
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        folder.check_resume("must", False)
    with pytest.raises(ConfigError, match="holds a run already"):
        folder.check_resume("never", True)


@pytest.mark.parametrize("name", ["config.yaml", "env.json", "ds_config.json", "metrics.jsonl"])
def test_files_that_no_run_wrote_are_not_replaced(tmp_path: Path, name: str) -> None:
    """--run-dir may name a folder of recipes: nothing is written there. With a checkpoint in it, it is a run's."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("seed: 1  # mine\n")
    with pytest.raises(ConfigError, match=f"is not the folder of a run, and holds {name}"):
        start(tmp_path)
    assert {path.name: path.read_text() for path in (tmp_path / "run").iterdir()} == {name: "seed: 1  # mine\n"}
    published(tmp_path / "run" / "checkpoints", 10)
    assert start(tmp_path, seed=1).config.is_file()
