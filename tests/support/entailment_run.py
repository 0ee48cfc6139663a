"""A recipe, annotation files and images of SNLI-VE so small that a real fine-tuning takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from albef.config import AlbefConfig
from albef.inputs.snli_ve_batch import CLASSES
from albef.model import AlbefForPretraining
from albef.pretrained import Albef
from tests.support.shards import jpeg, picture
from tests.support.tiny_run import TINY_MODEL


def write_entries(folder: Path, count: int, name: str = "train.json") -> Path:
    """`count` entries over half as many images, their names without `.jpg` as in the official files."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(count):
        (folder / "images" / f"{number // 2}.jpg").write_bytes(jpeg(picture(number // 2, 40, 36)))
        label = CLASSES[number % 5 % 3]  # of five entries two contradict, two are neutral, one follows
        entries.append({"image": str(number // 2), "sentence": f"a {label} thing, {number}!", "label": label})
    (folder / name).write_text(json.dumps(entries))
    return folder / name


def shape(**changes: Any) -> AlbefConfig:
    """The model of the recipe."""
    return AlbefConfig.tiny(**({key: value for key, value in TINY_MODEL.items() if key != "size"} | changes))


def pretrained_folder(folder: Path, **changes: Any) -> Path:
    """An exported model of random weights; `changes` replace fields of its shape."""
    torch.manual_seed(1)
    Albef(AlbefForPretraining(shape(**changes))).save_pretrained(folder)
    return folder


def entailment_recipe(folder: Path, **changes: Any) -> Path:
    """Write (once) 24 entries, 7 to validate on, a pretrained model of 48 px, and a recipe of two lanes of four.

    Dropout and augmentation are on. Returns the recipe's path.

    Args:
        changes: sections or keys that replace the recipe's.
    """
    if not (folder / "train.json").exists():
        write_entries(folder, 24)
        write_entries(folder, 7, "dev.json")
        pretrained_folder(folder / "pretrained", image_size=48)
    recipe = {
        "task": "snli-ve",
        "name": "entailment",
        "max_steps": 6,
        "model": TINY_MODEL,
        "init": {"model": str(folder / "pretrained")},
        "data": {
            "annotations": [str(folder / "train.json")],
            "images": [str(folder / "images")],
            "num_workers": 0,
        },
        "batch": {"global_batch_size": 8, "micro_batch_size": 4},
        "optim": {"lr": 1e-3},
        "schedule": {"warmup_steps": 2, "warmup_lr": 1e-4, "alpha_ramp_epochs": 0},
        "deepspeed": {"config": "zero0_fp32"},
        "checkpoint": {"save_every": 100},
        "logging": {"log_every": 1, "images_every": 0, "tensorboard": False},
        "validation": {"annotations": [str(folder / "dev.json")], "every_steps": 3, "batch_size": 2},
    }
    path = folder / "entailment.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    return path
