"""A recipe, annotation files and images of NLVR2 so small that a real fine-tuning takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.finetuning import write_images, write_recipe


def entry(number: int) -> dict[str, Any]:
    """Of five entries two are true."""
    images = [f"train/{number // 2}.jpg", f"train/{(number + 1) // 2}.jpg"]
    return {"images": images, "sentence": f"Thing {number}!", "label": str(number % 5 in (1, 2)), "unused": 0}


def write_entries(folder: Path, count: int, name: str) -> Path:
    """`count` entries; those of an even number have one image twice. Returns the file's path."""
    write_images(folder / "images" / "train", count // 2 + 1)
    (folder / name).write_text(json.dumps([entry(number) for number in range(count)]))
    return folder / name


def nlvr2_recipe(folder: Path, **changes: Any) -> Path:
    """Write (once) 24 entries, 7 to validate on, and a recipe (`write_recipe`) of four steps, three an epoch; returns
    its path.

    Args:
        changes: sections or keys that replace the recipe's.
    """
    if not (folder / "train.json").exists():
        write_entries(folder, 24, "train.json")
        write_entries(folder, 7, "dev.json")
    own = {
        "task": "nlvr2",
        "name": "nlvr2",
        "max_steps": 4,
        "schedule": {"alpha_ramp_epochs": 0.7},
        "validation": {"annotations": [str(folder / "dev.json")], "every_steps": 100},
    }
    return write_recipe(folder, own, changes)
