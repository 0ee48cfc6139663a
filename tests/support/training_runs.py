"""Real training runs of the tiny recipe on real gloo ranks, and what is compared of their results."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.wrapped_task import WrappedTask, pretrain_with, stop_after

WITHOUT_DROPOUT = ["--model.hidden_dropout=0", "--model.attention_dropout=0", "--max_steps=4"]


def train(_rank: int, _world_size: int, recipe: str, run_dir: str, overrides: list[str]) -> int:
    """One rank of `pipeline pretrain`. Imports here: the ranks are forked with deepspeed already imported."""
    from pipeline.config.resolve import load_config
    from pipeline.tasks.pretraining.maker import pretrain

    return pretrain(load_config(Path(recipe), overrides), Path(run_dir))


def run(tmp_path: Path, name: str, *, ranks: int = 1, overrides: list[str] | None = None) -> Path:
    """Train to the end on `ranks` ranks; returns the last checkpoint."""
    run_dir = tmp_path / name
    recipe = tiny_recipe(tmp_path)
    codes = run_ranks(train, ranks, str(recipe), str(run_dir), overrides or [], process_group=False, timeout_s=200)
    assert codes == [0] * ranks
    return newest(run_dir)


def newest(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / (run_dir / "checkpoints" / "latest").read_text()


def student(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The student's weights as DeepSpeed saved them (stages 0 to 2 keep them whole)."""
    return torch.load(checkpoint / "mp_rank_00_model_states.pt", weights_only=False)["module"]


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> tuple[float, str]:
    assert one.keys() == other.keys()
    return max(((one[name].double() - other[name].double()).abs().max().item(), name) for name in one)


def states(checkpoint: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "student": student(checkpoint),
        "teacher": load_file(checkpoint / "teacher.safetensors"),
        "queue": load_file(checkpoint / "queue.safetensors"),
    }


def relative_differences(one: Path, other: Path) -> dict[str, float]:
    """For student (fp32, as the optimizer holds it), teacher and queue the largest difference of two checkpoints, as a
    share of the part's largest value."""
    from pipeline.tasks.pretraining.weights import load_weights

    ours, theirs = load_weights(one), load_weights(other)
    found = {}
    for part in ("student", "teacher", "queue"):
        first, second = getattr(ours, part), getattr(theirs, part)
        largest = max(tensor.double().abs().max().item() for name, tensor in first.items() if name != "pointer")
        found[part] = largest_difference(first, second)[0] / largest
    return found


def scalars(run_dir: Path) -> dict[int, dict[str, float]]:
    """step -> the training scalars of metrics.jsonl."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "train/loss" in line}


def losses(run_dir: Path) -> dict[int, dict[str, float]]:
    """step -> its losses."""
    return {
        step: {name: value for name, value in line.items() if name.startswith("train/loss")}
        for step, line in scalars(run_dir).items()
    }


def digest(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of every byte of weights, teacher and queue."""
    return {
        f"{part}/{name}": hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for part, tensors in states(checkpoint).items()
        for name, tensor in tensors.items()
    }


def whole_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every file of a checkpoint: weights, moments, teacher, queue, random states."""
    found: dict[str, torch.Tensor] = {}

    def walk(name: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value.detach()
        elif isinstance(value, dict | list | tuple):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                walk(f"{name}/{key}", item)

    for file in sorted(checkpoint.iterdir()):
        if file.suffix == ".pt":
            walk(file.name, torch.load(file, weights_only=False))
        elif file.suffix == ".safetensors":
            walk(file.name, load_file(file))
    return found


def begin_at(source: Path, step: int, run_dir: Path) -> None:
    """Make `run_dir` a run whose newest checkpoint is `source`'s of `step`."""
    name = f"step_{step:08d}"
    shutil.copytree(source / "checkpoints" / name, run_dir / "checkpoints" / name)
    (run_dir / "checkpoints" / "latest").write_text(name)


def stop_at(rank: int, world_size: int, recipe: str, run_dir: str, overrides: list[str], step: int) -> int:
    """Train, and let only the last rank hear SIGUSR1 during step `step`: all must agree and save."""
    after = stop_after(step, on_this_rank=rank == world_size - 1)
    return pretrain_with(partial(WrappedTask, after=after), recipe, run_dir, overrides)
