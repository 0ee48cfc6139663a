"""A recipe, annotation lists and images of retrieval, so small that a real fine-tuning takes seconds; and its runs."""

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

from pipeline.config.resolve import load_config
from pipeline.tasks.makers import maker_of
from pipeline.train import train
from tests.support.entailment_run import pretrained_folder
from tests.support.ranks import run_ranks
from tests.support.shards import jpeg, picture
from tests.support.tiny_run import TINY_MODEL
from tests.support.wrapped_task import WrappedTask, wrapped


def write_lists(folder: Path) -> None:
    """train.json: 12 images with a row for each of two captions; val.json: 5 images, each with a list of two.

    phrases.json: train.json as a list of grounding.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(12):
        (folder / "images" / f"{number}.jpg").write_bytes(jpeg(picture(number, 40, 36)))
    rows = [
        {"image": f"{number}.jpg", "caption": f"{count} of thing {number}!", "image_id": f"coco_{number}"}
        for number in range(12)
        for count in ("one", "two")
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    phrases = [{"image": row["image"], "text": row["caption"], "ref_id": n} for n, row in enumerate(rows)]
    (folder / "phrases.json").write_text(json.dumps(phrases))
    val = [{"image": f"{n}.jpg", "caption": [f"one of thing {n}", f"a picture of {n}"]} for n in range(5)]
    (folder / "val.json").write_text(json.dumps(val))


def retrieval_recipe(folder: Path, **changes: Any) -> Path:
    """Write (once) the lists, a pretrained model of 48 px, and a recipe of two lanes of four: three steps an epoch.

    Dropout and augmentation are on. Returns the recipe's path.

    Args:
        changes: sections or keys that replace the recipe's.
    """
    if not (folder / "train.json").exists():
        write_lists(folder)
        pretrained_folder(folder / "pretrained", image_size=48)
    recipe = {
        "task": "retrieval",
        "name": "tuned",
        "max_steps": 4,
        "model": TINY_MODEL,
        "init": {"model": str(folder / "pretrained")},
        "objective": {"queue_size": 20, "queue_check_every": 2},
        "data": {
            "annotations": [str(folder / "train.json")],
            "images": [str(folder / "images")],
            "num_workers": 0,
        },
        "batch": {"global_batch_size": 8, "micro_batch_size": 4},
        "optim": {"lr": 1e-3},
        "schedule": {"warmup_steps": 2, "warmup_lr": 1e-4, "alpha_ramp_epochs": 1},
        "deepspeed": {"config": "zero0_fp32"},
        "checkpoint": {"save_every": 100},
        "logging": {"log_every": 1, "images_every": 0, "tensorboard": False},
        "validation": {"annotations": [str(folder / "val.json")], "every_steps": 2, "batch_size": 2, "k_test": 3},
    }
    path = folder / "tuned.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    return path


def finetune(_rank: int, _size: int, recipe: str, run_dir: str, overrides: list[str], kill_in: int = 0) -> int:
    """One rank of `pipeline finetune`; at the end of step `kill_in` it kills itself."""

    def kill(_task: Any, _engine: Any, step: int) -> None:
        if step + 1 == kill_in:
            os.kill(os.getpid(), signal.SIGKILL)

    config = load_config(Path(recipe), overrides)
    maker = wrapped(maker_of(config.task), lambda task: WrappedTask(task, after=kill))
    return train(config, Path(run_dir), maker)


def run(folder: Path, name: str, *overrides: str, ranks: int = 1, kill_in: int = 0) -> Path:
    """A whole run; returns its folder."""
    arguments = (str(folder / "tuned.yaml"), str(folder / name), list(overrides), kill_in)
    assert run_ranks(finetune, ranks, *arguments, process_group=False, timeout_s=200) == [0] * ranks
    return folder / name


def digest(run_dir: Path) -> dict[str, str]:
    """SHA-256 of every byte of student, teacher and queue after four steps."""
    checkpoint = run_dir / "checkpoints" / "step_00000004"
    parts = {"student": torch.load(checkpoint / "mp_rank_00_model_states.pt", weights_only=False)["module"]}
    parts |= {name: load_file(checkpoint / f"{name}.safetensors") for name in ("teacher", "queue")}
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
