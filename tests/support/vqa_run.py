"""A recipe, annotation files, candidates and images of VQA so small that a real fine-tuning takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.support.entailment_run import pretrained_folder
from tests.support.shards import jpeg, picture
from tests.support.tiny_run import TINY_MODEL

ANSWERS = ["yes", "no", "2", "red", "a red ball", "3"]
TYPES = {"yes": "yes/no", "no": "yes/no", "2": "number", "3": "number"}


def entry(number: int) -> dict[str, Any]:
    """A question of VQA whose ten people gave one to three answers; every fifth is of Visual Genome."""
    answer = ANSWERS[number % 5]
    asked = {"question_id": 100 + number, "question": f"What is it, number {number}?", "image": f"{number // 2}.jpg"}
    if number % 5 == 4:
        return asked | {"answer": answer, "dataset": "vg"}
    others = [ANSWERS[(number + 1) % 5]] * (number % 3) + ["something else"] * (number % 2)
    given = [answer] * (10 - len(others)) + others
    return asked | {"answer": given, "answer_type": TYPES.get(answer, "other"), "dataset": "vqa"}


def write_questions(folder: Path, numbers: range, name: str = "train.json") -> Path:
    """These entries over half as many images; for another name than train.json those of VQA only."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = [entry(number) for number in numbers]
    for number in numbers:
        (folder / "images" / f"{number // 2}.jpg").write_bytes(jpeg(picture(number // 2, 40, 36)))
    kept = [one for one in entries if name == "train.json" or one["dataset"] == "vqa"]
    (folder / name).write_text(json.dumps(kept))
    return folder / name


def vqa_recipe(folder: Path, **changes: Any) -> Path:
    """Write (once) 24 questions, 7 to validate on, six candidates, a pretrained model, and a recipe of two lanes of
    four.

    Dropout and augmentation are on. Returns the recipe's path.

    Args:
        changes: sections or keys that replace the recipe's.
    """
    if not (folder / "train.json").exists():
        write_questions(folder, range(24))
        write_questions(folder, range(30, 38), "val.json")
        (folder / "answers.json").write_text(json.dumps(ANSWERS))
        pretrained_folder(folder / "pretrained", image_size=48)
    recipe = {
        "task": "vqa",
        "name": "vqa",
        "max_steps": 6,
        "model": TINY_MODEL,
        "init": {"model": str(folder / "pretrained")},
        "data": {
            "annotations": [str(folder / "train.json")],
            "images": [str(folder / "images")],
            "answers": str(folder / "answers.json"),
            "num_workers": 0,
        },
        "batch": {"global_batch_size": 8, "micro_batch_size": 4},
        "optim": {"lr": 1e-3},
        "schedule": {"warmup_steps": 2, "warmup_lr": 1e-4, "alpha_ramp_epochs": 1},
        "deepspeed": {"config": "zero0_fp32"},
        "checkpoint": {"save_every": 100},
        "logging": {"log_every": 1, "images_every": 0, "tensorboard": False},
        "validation": {"annotations": [str(folder / "val.json")], "every_steps": 3, "batch_size": 2, "k_test": 4},
    }
    path = folder / "vqa.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    return path
