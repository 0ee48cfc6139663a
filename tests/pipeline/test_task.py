"""A task that the trainer has never heard of: it trains, saves, resumes and validates by what `pipeline.task` asks."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.weights.tensor_file import read_tensors
from pipeline.checkpoints.layout import read_meta
from pipeline.config.resolve import load_config
from pipeline.engine.ds_config import resolve_ds_config
from pipeline.planning.flops import flops_per_sample
from pipeline.planning.memory import estimate_memory
from tests.support.brightness_task import BRIGHTNESS
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.wrapped_task import WrappedTask, stop_after, wrapped

ROOT = Path(__file__).resolve().parents[2]


def train_brightness(rank: int, size: int, recipe: str, run_dir: str, overrides: list[str], stop: int = 0) -> Any:
    """Train; let the last rank hear SIGUSR1 in step `stop`. Returns the exit code and the average."""
    from pipeline.train import train

    made = []

    def watched(task: Any) -> WrappedTask:
        made.append(task)
        return WrappedTask(task, after=stop_after(stop, on_this_rank=rank == size - 1))

    code = train(load_config(Path(recipe), overrides), Path(run_dir), wrapped(BRIGHTNESS, watched))
    return code, made[0].average


@pytest.mark.timeout(900)
def test_another_task_trains_and_resumes_to_the_bit(tmp_path: Path) -> None:
    """Twelve steps of two lanes on two ranks, whole and with data workers, and stopped after five: the same state
    beside the engine."""
    recipe = str(tiny_recipe(tmp_path, max_steps=12, validation={"every_steps": 6}))
    overrides = ["--deepspeed.config=zero1_fp32", "--optim.lr=0.1"]
    with_worker = [*overrides, "--data.num_workers=1"]
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    ends = run_ranks(train_brightness, 2, recipe, whole, with_worker, process_group=False, timeout_s=200)
    stopped = run_ranks(train_brightness, 2, recipe, cut, overrides, 5, process_group=False, timeout_s=200)
    resumed = run_ranks(train_brightness, 2, recipe, cut, overrides, process_group=False, timeout_s=200)
    assert [code for code, _ in ends + stopped + resumed] == [0, 0, 75, 75, 0, 0]
    assert ends[0][1].abs().sum() > 0
    assert all(torch.equal(average, ends[0][1]) for _, average in ends + resumed)
    saved = tmp_path / "cut" / "checkpoints" / "step_00000012"
    assert torch.equal(read_tensors(saved / "average.safetensors")["weight"], ends[0][1])
    record = (saved / f"made_by_pipeline.{saved.name}").read_text().splitlines()
    assert record[1:] == sorted(read_meta(saved).files), "removal knows exactly the files that two ranks wrote"
    assert json.loads((saved / "model_config.json").read_text()) == {"line": 3}
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").open()]
    steps = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert all(line["train/error"] == pytest.approx(line["train/loss"] ** 0.5, rel=0.2) for line in steps)
    assert steps[-1]["train/loss"] < steps[0]["train/loss"] and steps[0]["train/lane"] == 1
    assert [line["step"] for line in lines if "val/weight" in line] == [0, 6, 12]


def imported(path: Path) -> set[str]:
    """Modules that a file imports, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_another_task_is_planned_from_its_sketch(tmp_path: Path) -> None:
    """Three weights: six operations a sample forward, as many backward; the bytes of weights, moments and average."""
    run = load_config(tiny_recipe(tmp_path))
    assert flops_per_sample(BRIGHTNESS.sketch(run, torch.float32), BRIGHTNESS.noise(run, 5)) == 12
    memory = estimate_memory(run, resolve_ds_config(run, 1), BRIGHTNESS, 1)
    parts = {"weights": 12, "gradients": 12, "optimizer": 24, "average": 12}
    assert {name: size for name, size in memory.parts.items() if name != "activations"} == parts


def test_the_seam_knows_no_task() -> None:
    """task.py imports nothing of pipeline; the trainer and the rooms that serve it import no model, no task."""
    assert not [name for name in imported(ROOT / "pipeline" / "task.py") if name.startswith(("pipeline", "albef"))]
    model = {"albef.model", "albef.momentum", "albef.objective.queue", "albef.inputs.batch", "albef.objective.losses"}
    rooms = ("checkpoints", "config", "data", "engine", "export", "run", "watch")
    files = [path for room in rooms for path in (ROOT / "pipeline" / room).rglob("*.py")]
    for file in (ROOT / "pipeline" / "train.py", ROOT / "pipeline" / "task_maker.py", *files):
        names = imported(file)
        assert not names & model, file
        assert not [name for name in names if name.startswith("pipeline.tasks")], file
