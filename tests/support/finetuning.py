"""Tiny fine-tuning runs of any task: what their recipes share, real runs on real ranks, what is compared of them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from albef.config import AlbefConfig
from albef.model import AlbefForPretraining
from albef.pretrained import Albef
from tests.support.ranks import run_ranks
from tests.support.shards import jpeg, picture
from tests.support.tiny_run import TINY_MODEL
from tests.support.training_runs import newest, student
from tests.support.wrapped_task import WrappedTask, wrapped


def shape(**changes: Any) -> AlbefConfig:
    """The model of the recipes."""
    return AlbefConfig.tiny(**({key: value for key, value in TINY_MODEL.items() if key != "size"} | changes))


def pretrained_folder(folder: Path, **changes: Any) -> Path:
    """An exported model of random weights; `changes` replace fields of its shape."""
    torch.manual_seed(1)
    Albef(AlbefForPretraining(shape(**changes))).save_pretrained(folder)
    return folder


def write_images(folder: Path, count: int) -> None:
    """0.jpg, 1.jpg and so on in a folder, each another picture of 40 x 36 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(jpeg(picture(number, 40, 36)))


def write_recipe(folder: Path, own: dict[str, Any], changes: dict[str, Any]) -> Path:
    """Write a recipe of two lanes of four that trains on `folder`'s train.json and images, from a pretrained model of
    48 px, which is written once. Dropout and augmentation are on. Returns the recipe's path, `own`'s name with .yaml.

    Args:
        own: what the task has beside, or in place of, the keys below.
        changes: sections or keys that replace the recipe's.
    """
    if not (folder / "pretrained").exists():
        pretrained_folder(folder / "pretrained", image_size=48)
    recipe: dict[str, Any] = {
        "model": TINY_MODEL,
        "init": {"model": str(folder / "pretrained")},
        "data": {
            "annotations": [str(folder / "train.json")],
            "images": [str(folder / "images")],
            "num_workers": 0,
        },
        "batch": {"global_batch_size": 8, "micro_batch_size": 4},
        "optim": {"lr": 1e-3},
        "schedule": {"warmup_steps": 2, "warmup_lr": 1e-4},
        "deepspeed": {"config": "zero0_fp32"},
        "checkpoint": {"save_every": 100},
        "logging": {"log_every": 1, "images_every": 0, "tensorboard": False},
        "validation": {"batch_size": 2},
    }
    for key, value in own.items():
        recipe[key] = recipe.get(key, {}) | value if isinstance(value, dict) else value
    path = folder / f"{own['name']}.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    return path


def finetune(_rank: int, _size: int, recipe: str, run_dir: str, overrides: list[str], kill_in: int = 0) -> int:
    """One rank of `pipeline finetune`; at the end of step `kill_in` it kills itself.

    Imports here: the ranks are forked with deepspeed already imported.
    """
    from pipeline.config.resolve import load_config
    from pipeline.tasks.makers import maker_of
    from pipeline.train import train

    def kill(_task: Any, _engine: Any, step: int) -> None:
        if step + 1 == kill_in:
            os.kill(os.getpid(), signal.SIGKILL)

    config = load_config(Path(recipe), overrides)
    maker = wrapped(maker_of(config.task), lambda task: WrappedTask(task, after=kill))
    return train(config, Path(run_dir), maker)


def run(recipe: Path, name: str, *overrides: str, ranks: int = 1, kill_in: int = 0) -> Path:
    """A whole run; returns its folder, which is beside the recipe."""
    arguments = (str(recipe), str(recipe.parent / name), list(overrides), kill_in)
    assert run_ranks(finetune, ranks, *arguments, process_group=False, timeout_s=200) == [0] * ranks
    return recipe.parent / name


def run_command(_rank: int, _size: int, command: list[str]) -> int:
    """A rank's part of `python -m pipeline ...`."""
    from pipeline import cli

    return cli.main(command)


def trained_and_exported(folder: Path, task: str, recipe: Path) -> Path:
    """Two steps in bf16 on two ranks at ZeRO 1 in `run`, exported as `student` and as `teacher`; returns the folder."""
    flags = ["--run-dir", str(folder / "run"), "--deepspeed.config=zero1_bf16", "--max_steps=2"]
    command = ["finetune", task, str(recipe), *flags]
    assert run_ranks(run_command, 2, command, process_group=False, timeout_s=200) == [0, 0]
    for kind in ("student", "teacher"):
        export = ["export", str(folder / "run"), "--out", str(folder / kind), "--weights", kind]
        assert run_command(0, 1, export) == 0
    return folder


def make_task(recipe: Path, *overrides: str) -> Any:
    """The task of a run on this process alone, without an engine."""
    from pipeline.config.resolve import load_config
    from pipeline.engine.distributed import World
    from pipeline.tasks.makers import maker_of

    config = load_config(recipe, overrides)
    alone = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    return maker_of(config.task).make(config, alone, torch.float32)


def digest(run_dir: Path) -> dict[str, str]:
    """SHA-256 of every byte of the student, and of what its newest checkpoint holds beside the engine; each rank has a
    random state of its own, which is left out."""
    checkpoint = newest(run_dir)
    parts = {"student": student(checkpoint)}
    parts |= {file.stem: load_file(file) for file in checkpoint.glob("*.safetensors") if "random_rank" not in file.stem}
    return {
        f"{part}/{name}": hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


def scalars(run_dir: Path, prefix: str) -> dict[int, dict[str, float]]:
    """step -> the scalars of metrics.jsonl whose names begin so."""
    found: dict[int, dict[str, float]] = {}
    for line in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines()):
        if values := {name: value for name, value in line.items() if name.startswith(prefix)}:
            found[line["step"]] = values
    return found
