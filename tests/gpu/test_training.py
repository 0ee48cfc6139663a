"""Training on one GPU: every stage and precision beside the CPU, stop and resume, export; `--deterministic`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipeline.engine.test_step_check import FOUR_LANES, NUM_STEPS, POISONS, poisoned_run
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import (
    WITHOUT_DROPOUT,
    digest,
    largest_difference,
    losses,
    newest,
    run,
    scalars,
    states,
    stop_at,
    train,
)


def train_on_cpu(rank: int, world_size: int, recipe: str, run_dir: str, overrides: list[str]) -> int:
    """`train` on a machine whose GPU is not to be used."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    return train(rank, world_size, recipe, run_dir, overrides)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory) -> Path:
    """Four fp32 steps on the CPU, the yardstick; returns the run folder."""
    folder = tmp_path_factory.mktemp("cpu")
    recipe = str(tiny_recipe(folder))
    codes = run_ranks(train_on_cpu, 1, recipe, str(folder / "run"), WITHOUT_DROPOUT, process_group=False)
    assert codes == [0]
    return folder / "run"


@pytest.mark.parametrize(
    "ds_config", ["zero0_fp32", "zero1_fp32", "zero2_fp32", "zero0_bf16", "zero1_bf16", "zero2_bf16"]
)
def test_the_gpu_takes_the_cpus_steps(tmp_path, on_cpu, ds_config):
    """Losses of four steps with two lanes accumulated. 1e-3 in fp32: TF32 is off, sums and kernels differ; bf16 2%."""
    checkpoint = run(tmp_path, ds_config, overrides=[f"--deepspeed.config={ds_config}", *WITHOUT_DROPOUT])
    expected, got = scalars(on_cpu), scalars(checkpoint.parents[1])
    assert got.keys() == expected.keys()
    for step in expected:
        rel = 1e-3 if ds_config.endswith("fp32") else 0.02
        assert got[step]["train/loss"] == pytest.approx(expected[step]["train/loss"], rel=rel), f"step {step}"


def skip(_rank: int, _world_size: int, recipe: str, run_dir: str, overrides: list[str]) -> dict[str, Any]:
    """The poisoned run, on the GPU."""
    return poisoned_run(recipe, Path(run_dir), overrides)


@pytest.mark.parametrize(
    "ds_config", ["zero0_fp32", "zero1_fp32", "zero2_fp32", "zero0_bf16", "zero1_bf16", "zero2_bf16"]
)
def test_a_skipped_step_moves_nothing(tmp_path, ds_config):
    """An infinite gradient before AdamW has moments, a NaN pixel or loss: to the bit, and training continues."""
    recipe = str(tiny_recipe(tmp_path, batch=FOUR_LANES, max_steps=NUM_STEPS))
    overrides = [f"--deepspeed.config={ds_config}"]
    (seen,) = run_ranks(skip, 1, recipe, str(tmp_path / "run"), overrides, process_group=False)
    assert {step for step, moved in seen["moved"].items() if not moved} == set(POISONS), seen["moved"]
    assert seen["finite"] and seen["skipped"] == len(POISONS)


def test_deterministic_runs_have_the_same_bits(tmp_path):
    """Two runs of four steps side by side, with dropout: every byte of weights, teacher and queue, and every loss.

    An operation without a deterministic form would end them.
    """
    recipe, names = str(tiny_recipe(tmp_path)), ("one", "other")
    command = [sys.executable, "-m", "pipeline", "pretrain", recipe, "--deterministic", "--max_steps=4"]
    command.append("--deepspeed.config=zero1_bf16")
    runs = [
        subprocess.Popen([*command, "--run-dir", str(tmp_path / name)], stderr=subprocess.PIPE, text=True)
        for name in names
    ]
    for process in runs:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
    assert losses(tmp_path / "one") == losses(tmp_path / "other")
    assert digest(newest(tmp_path / "one")) == digest(newest(tmp_path / "other"))


def test_stop_resume_and_export(tmp_path):
    """Five of ten steps, stop, resume on the GPU: the weights of ten steps; the export gives the trainer's features."""
    from albef import Albef
    from pipeline.tasks.pretraining.export import export_checkpoint

    choice = ["--deepspeed.config=zero1_bf16"]
    whole = run(tmp_path, "whole", overrides=choice)
    recipe, run_dir = str(tiny_recipe(tmp_path)), tmp_path / "parts"
    assert run_ranks(stop_at, 1, recipe, str(run_dir), choice, 5, process_group=False) == [75]
    assert newest(run_dir).name == "step_00000005"
    parts = run(tmp_path, "parts", overrides=choice)
    expected, got = states(whole), states(parts)
    for part in expected:
        difference, name = largest_difference(expected[part], got[part])
        # Atomic additions in CUDA's backward leave the order of sums open: one bf16 step of weights below 1.
        assert difference < 2**-8, f"{part} {name} differs by {difference}"

    export_checkpoint(parts, tmp_path / "model")
    texts = ["a picture of thing 3", "thing 4 seen again"]
    on_gpu = Albef.from_pretrained(tmp_path / "model").encode_text(texts)[1]
    on_cpu = Albef.from_pretrained(tmp_path / "model", device="cpu").encode_text(texts)[1]
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=1e-4)
