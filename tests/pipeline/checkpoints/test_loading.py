"""Checkpoints whose meta.json vouches for files that are not what they should be: no code of theirs ever runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from albef.errors import CheckpointError
from pipeline.checkpoints.layout import find_checkpoint, resolve_checkpoint
from pipeline.tasks.pretraining.weights import load_weights
from tests.support.checkpoints import published, seal
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import run

MODEL_STATES = "mp_rank_00_model_states.pt"
OPTIMIZER = "zero_pp_rank_{}_mp_rank_00_optim_states.pt"
RANKS = {"zero0_bf16": 1, "zero2_fp32": 2}
"""DeepSpeed JSON -> ranks."""


class Payload:
    """Unpickled freely, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run folder of two steps under a DeepSpeed JSON; each is made once."""
    folder = tmp_path_factory.mktemp("saved")
    done: dict[str, Path] = {}

    def of(ds_config: str) -> Path:
        if ds_config not in done:
            overrides = [f"--deepspeed.config={ds_config}", "--max_steps=2"]
            done[ds_config] = run(folder, ds_config, ranks=RANKS[ds_config], overrides=overrides).parents[1]
        return done[ds_config]

    return of


def damaged(run_dir: Path, to: Path, damage: Callable[[Path], object], file: str) -> Path:
    """A copy of the run's checkpoint, whose meta.json vouches for what was done to `file`."""
    checkpoint = Path(shutil.copytree(run_dir / "checkpoints" / "step_00000002", to / "step_00000002"))
    damage(checkpoint / file)
    seal(checkpoint)
    return checkpoint


def load_each(_rank: int, _size: int, recipe: str, run_dir: str, ds_config: str, checkpoints: list[str]) -> list[str]:
    """One rank of a run that is built and loads one checkpoint after another; returns the error of each, or ""."""
    from pipeline.checkpoints.loading import load_checkpoint
    from pipeline.config.resolve import load_config
    from pipeline.engine import distributed
    from pipeline.tasks.pretraining.maker import PRETRAINING
    from pipeline.train import build
    from pipeline.watch.heartbeat import Heartbeat

    run_config = load_config(Path(recipe), [f"--deepspeed.config={ds_config}"])
    world = distributed.init()
    errors = []
    with Heartbeat(world, run_config.watch.hang_s) as heartbeat:
        parts = build(run_config, Path(run_dir), world, heartbeat, PRETRAINING).parts
        for checkpoint in checkpoints:
            path, meta = resolve_checkpoint(Path(checkpoint))
            layout: dict[str, Any] = {"world": world, "zero_stage": parts.ds.stage, "precision": parts.ds.precision}
            try:
                load_checkpoint(path, meta, parts.engine, parts.task, **layout)
                errors.append("")
            except CheckpointError as error:
                errors.append(error.message)
    distributed.shutdown()
    return errors


def errors_of_loading(folder: Path, checkpoints: list[Path], ds_config: str, ranks: int) -> list[str]:
    """The error that each checkpoint ends with, the same on all ranks."""
    arguments = (str(tiny_recipe(folder)), str(folder / "run"), ds_config, [str(path) for path in checkpoints])
    first, *others = run_ranks(load_each, ranks, *arguments, process_group=False, timeout_s=200)
    assert all(other == first for other in others)
    return first


def plant(executed: Path) -> Callable[[Path], None]:
    """Put a payload deep into one of DeepSpeed's files."""

    def damage(file: Path) -> None:
        states = torch.load(file, weights_only=False)
        states.setdefault("optimizer_state_dict", {})["more"] = [Payload(executed)]
        torch.save(states, file)
        torch.load(file, weights_only=False)
        executed.rmdir()  # fails unless the payload works

    return damage


@pytest.mark.parametrize(
    ("before", "after", "ranks"),
    [
        ("zero0_bf16", "zero0_bf16", 1),
        ("zero2_fp32", "zero2_fp32", 2),
        ("zero2_fp32", "zero0_fp32", 1),
    ],
)
def test_a_pickled_payload_is_named_and_does_not_run(saved, tmp_path, before, after, ranks):
    """In every kind of file, resuming in the same layout, and at another stage on fewer ranks: one error on all ranks.
    Exporting and replaying, which read weights alike, name it too."""
    executed = tmp_path / "executed"
    files = sorted(path.name for path in (saved(before) / "checkpoints" / "step_00000002").glob("*.pt"))
    assert len(files) == 1 + (RANKS[before] if before != "zero0_bf16" else 0)
    planted = [damaged(saved(before), tmp_path / name, plant(executed), name) for name in files]
    errors = errors_of_loading(tmp_path, planted, after, ranks)
    for error, file, checkpoint in zip(errors, files, planted, strict=True):
        start = f"{checkpoint / file} holds an object that no checkpoint has: posix.mkdir"
        assert error.startswith(start)
        with pytest.raises(CheckpointError) as raised:
            load_weights(checkpoint)
        assert raised.value.message.startswith(start)
    assert not executed.exists()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def without(key: str) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        states = torch.load(file, weights_only=False)
        del states[key]
        torch.save(states, file)

    return damage


def smaller(file: Path) -> None:
    save_file({name: tensor.flatten()[:1] for name, tensor in load_file(file).items()}, file)


def test_a_file_that_is_not_what_it_should_be_is_one_error_on_all_ranks(saved, tmp_path):
    """Two ranks, ZeRO 2, also when only one of them reads that file: it does not leave the other waiting. And a whole
    checkpoint is loaded after all of them."""
    damages: list[tuple[str, Callable[[Path], object]]] = [
        ("teacher.safetensors", cut),
        ("teacher.safetensors", smaller),
        ("queue.safetensors", smaller),
        ("queue.safetensors", Path.unlink),
        ("random_rank_00001.safetensors", cut),
        (MODEL_STATES, cut),
        (MODEL_STATES, without("module")),
        (OPTIMIZER.format(1), Path.unlink),
        (OPTIMIZER.format(1), without("optimizer_state_dict")),
        (OPTIMIZER.format(0), lambda file: torch.save([1, 2], file)),
        ("teacher.safetensors", lambda file: None),
    ]
    checkpoints = [
        damaged(saved("zero2_fp32"), tmp_path / str(number), damage, file)
        for number, (file, damage) in enumerate(damages)
    ]
    *errors, whole = errors_of_loading(tmp_path, checkpoints, "zero2_fp32", 2)
    for checkpoint, error, (file, _) in zip(checkpoints, errors, damages, strict=False):
        assert error.startswith(str(checkpoint)), f"{file}: {error!r}"
    assert whole == ""


def test_only_files_that_meta_lists_are_read(saved, tmp_path):
    """A further rank's file that somebody put there, whose content no checksum covers, changes nothing."""
    checkpoint = damaged(saved("zero2_fp32"), tmp_path, lambda file: None, MODEL_STATES)
    (checkpoint / OPTIMIZER.format(2)).write_bytes(b"of another run")
    assert load_weights(checkpoint).student


def test_a_run_folder_its_checkpoints_and_a_copy_can_be_named(tmp_path):
    """What export and replay take: a copy under any name is read when it is named, and the error is pretrain's."""
    checkpoint = published(tmp_path / "checkpoints", 2)
    good = Path(shutil.copytree(checkpoint, checkpoint.with_name("good (copy)")))
    for named in (tmp_path, checkpoint.parent, checkpoint):
        assert resolve_checkpoint(named)[0] == checkpoint
    assert resolve_checkpoint(good)[0] == good
    (checkpoint / "meta.json").write_text("{}")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints") as resumed:
        find_checkpoint(checkpoint.parent)
    with pytest.raises(CheckpointError) as exported:
        resolve_checkpoint(tmp_path)
    assert exported.value.message == resumed.value.message
