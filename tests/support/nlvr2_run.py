"""A recipe, annotation files and images of NLVR2 so small that a real fine-tuning takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.support.entailment_run import pretrained_folder
from tests.support.shards import jpeg, picture
from tests.support.tiny_run import TINY_MODEL


def entry(number: int) -> dict[str, Any]:
    """Of five entries two are true."""
    images = [f"train/{number // 2}.jpg", f"train/{(number + 1) // 2}.jpg"]
    return {"images": images, "sentence": f"Thing {number}!", "label": str(number % 5 in (1, 2)), "unused": 0}


def write_entries(folder: Path, count: int, name: str) -> str:
    """`count` entries; those of an even number have one image twice. Returns the file's path."""
    (folder / "images" / "train").mkdir(parents=True, exist_ok=True)
    for number in range(count // 2 + 1):
        (folder / "images" / "train" / f"{number}.jpg").write_bytes(jpeg(picture(number, 40, 36)))
    (folder / name).write_text(json.dumps([entry(number) for number in range(count)]))
    return str(folder / name)


def nlvr2_recipe(folder: Path) -> Path:
    """Write 24 entries, 7 to validate on, a pretrained model, and a recipe of two lanes of four; alpha rises over 2
    steps. Returns the recipe's path.
    """
    recipe = {
        "task": "nlvr2",
        "max_steps": 4,
        "model": TINY_MODEL,
        "init": {"model": str(pretrained_folder(folder / "pretrained", image_size=48))},
        "data": {
            "annotations": [write_entries(folder, 24, "train.json")],
            "images": [str(folder / "images")],
            "num_workers": 0,
        },
        "batch": {"global_batch_size": 8, "micro_batch_size": 4},
        "optim": {"lr": 1e-3},
        "schedule": {"warmup_steps": 2, "warmup_lr": 1e-4, "alpha_ramp_epochs": 0.7},
        "deepspeed": {"config": "zero0_fp32"},
        "checkpoint": {"save_every": 2, "asynchronous": False},
        "logging": {"log_every": 1, "images_every": 0, "tensorboard": False},
        "validation": {"annotations": [write_entries(folder, 7, "dev.json")], "every_steps": 100, "batch_size": 2},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"
