"""A recipe, annotation files, candidates and images of VQA so small that a real fine-tuning takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.finetuning import write_images, write_recipe

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
    write_images(folder / "images", (numbers.stop + 1) // 2)
    entries = [entry(number) for number in numbers]
    kept = [one for one in entries if name == "train.json" or one["dataset"] == "vqa"]
    (folder / name).write_text(json.dumps(kept))
    return folder / name


def vqa_recipe(folder: Path, **changes: Any) -> Path:
    """Write (once) 24 questions, 7 to validate on, six candidates, and a recipe (`write_recipe`) of six steps; returns
    its path.

    Args:
        changes: sections or keys that replace the recipe's.
    """
    if not (folder / "train.json").exists():
        write_questions(folder, range(24))
        write_questions(folder, range(30, 38), "val.json")
        (folder / "answers.json").write_text(json.dumps(ANSWERS))
    own = {
        "task": "vqa",
        "name": "vqa",
        "max_steps": 6,
        "data": {"answers": str(folder / "answers.json")},
        "schedule": {"alpha_ramp_epochs": 1},
        "validation": {"annotations": [str(folder / "val.json")], "every_steps": 3, "k_test": 4},
    }
    return write_recipe(folder, own, changes)
