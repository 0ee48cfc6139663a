"""A recipe, annotation lists and images of retrieval so small that a real fine-tuning takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.support.entailment_run import pretrained_folder
from tests.support.shards import jpeg, picture
from tests.support.tiny_run import TINY_MODEL


def write_lists(folder: Path) -> None:
    """train.json: 12 images with a row for each of two captions; val.json: 5 images, each with a list of two."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(12):
        (folder / "images" / f"{number}.jpg").write_bytes(jpeg(picture(number, 40, 36)))
    rows = [
        {"image": f"{number}.jpg", "caption": f"{count} of thing {number}!", "image_id": f"coco_{number}"}
        for number in range(12)
        for count in ("one", "two")
    ]
    (folder / "train.json").write_text(json.dumps(rows))
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
