"""A recipe, annotation files and images of SNLI-VE so small that a real fine-tuning takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from albef.inputs.snli_ve_batch import CLASSES
from tests.support.finetuning import write_images, write_recipe


def write_entries(folder: Path, count: int, name: str = "train.json") -> Path:
    """`count` entries over half as many images, their names without `.jpg` as in the official files."""
    write_images(folder / "images", (count + 1) // 2)
    entries = []
    for number in range(count):
        label = CLASSES[number % 5 % 3]  # of five entries two contradict, two are neutral, one follows
        entries.append({"image": str(number // 2), "sentence": f"a {label} thing, {number}!", "label": label})
    (folder / name).write_text(json.dumps(entries))
    return folder / name


def entailment_recipe(folder: Path, **changes: Any) -> Path:
    """Write (once) 24 entries, 7 to validate on, and a recipe (`write_recipe`) of six steps; returns its path.

    Args:
        changes: sections or keys that replace the recipe's.
    """
    if not (folder / "train.json").exists():
        write_entries(folder, 24)
        write_entries(folder, 7, "dev.json")
    own = {
        "task": "snli-ve",
        "name": "entailment",
        "max_steps": 6,
        "schedule": {"alpha_ramp_epochs": 0},
        "validation": {"annotations": [str(folder / "dev.json")], "every_steps": 3},
    }
    return write_recipe(folder, own, changes)
