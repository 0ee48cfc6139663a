"""A recipe, annotation lists and images of retrieval, so small that a real fine-tuning takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.finetuning import write_images, write_recipe


def write_lists(folder: Path) -> None:
    """train.json: 12 images with a row for each of two captions; val.json: 5 images, each with a list of two.

    phrases.json: train.json as a list of grounding, with a box.
    """
    write_images(folder / "images", 12)
    rows = [
        {"image": f"{number}.jpg", "caption": f"{count} of thing {number}!", "image_id": f"coco_{number}"}
        for number in range(12)
        for count in ("one", "two")
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    boxed = {"box": [2, 3, 20, 10]}
    phrases = [{"image": row["image"], "text": row["caption"], "ref_id": n} | boxed for n, row in enumerate(rows)]
    (folder / "phrases.json").write_text(json.dumps(phrases))
    val = [{"image": f"{n}.jpg", "caption": [f"one of thing {n}", f"a picture of {n}"]} for n in range(5)]
    (folder / "val.json").write_text(json.dumps(val))


def retrieval_recipe(folder: Path, **changes: Any) -> Path:
    """Write (once) the lists, and a recipe (`write_recipe`) of four steps, three an epoch; returns its path.

    Args:
        changes: sections or keys that replace the recipe's.
    """
    if not (folder / "train.json").exists():
        write_lists(folder)
    own = {
        "task": "retrieval",
        "name": "tuned",
        "max_steps": 4,
        "objective": {"queue_size": 20, "queue_check_every": 2},
        "schedule": {"alpha_ramp_epochs": 1},
        "validation": {"annotations": [str(folder / "val.json")], "every_steps": 2, "k_test": 3},
    }
    return write_recipe(folder, own, changes)


def grounding_recipe(folder: Path, **changes: Any) -> Path:
    """The same for grounding, on phrases.json, without a validation."""
    phrases = {"annotations": [str(folder / "phrases.json")], "images": [str(folder / "images")], "num_workers": 0}
    return retrieval_recipe(folder, **({"task": "grounding", "data": phrases, "validation": {}} | changes))
