"""A recipe and shards of text assignment so small that a real run takes seconds."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.support.finetuning import pretrained_folder
from tests.support.tiny_run import tiny_recipe


def alignment_recipe(folder: Path) -> Path:
    """Write 48 pairs in shards, a pretrained model of 48 px, and a recipe of two lanes of four, four steps. Returns the
    recipe's path.
    """
    recipe = yaml.safe_load(tiny_recipe(folder).read_text()) | {
        "task": "nlvr2-pretrain",
        "max_steps": 4,
        "init": {"model": str(pretrained_folder(folder / "pretrained", image_size=48))},
        "checkpoint": {"save_every": 2, "asynchronous": False},
    }
    for section in ("objective", "validation"):
        del recipe[section]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"
