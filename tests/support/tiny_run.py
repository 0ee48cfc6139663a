"""A recipe and shards so small that a real run takes seconds: for tests of training, checkpoints and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.shards import write_corpus

TINY_MODEL = {
    "size": "tiny",
    "image_size": 32,
    "patch_size": 16,
    "vision_width": 32,
    "vision_depth": 2,
    "vision_heads": 2,
    "text_width": 32,
    "text_depth": 1,
    "fusion_depth": 1,
    "text_heads": 2,
    "text_ffn_width": 64,
    "embed_dim": 16,
    # BERT's: with the wider start of `tiny`, rounding grows faster over the steps that tests compare
    "layer_init_std": 0.02,
}


def tiny_recipe(folder: Path, **changes: Any) -> Path:
    """Write (once) 48 pairs in shards and a recipe of two lanes of four pairs, ten steps; returns the recipe's path.

    Dropout and augmentation are on, and the queue (20 entries) wraps during the run.

    Args:
        changes: sections or keys that replace the recipe's.
    """
    shards = folder / "shards"
    if not shards.exists():
        write_corpus(shards, [20, 16, 12])
    recipe = {
        "name": "tiny",
        "max_steps": 10,
        "model": TINY_MODEL,
        "objective": {"queue_size": 20, "queue_check_every": 3},
        "data": {"manifests": [str(shards / "manifest.parquet")], "num_workers": 0},
        "batch": {"global_batch_size": 8, "micro_batch_size": 4},
        "optim": {"lr": 1e-3, "clip_grad_norm": 1.0},
        "schedule": {"warmup_steps": 2, "warmup_lr": 1e-4},
        "deepspeed": {"config": "zero0_fp32"},
        "checkpoint": {"save_every": 100},
        "logging": {"log_every": 1, "images_every": 0, "tensorboard": False},
        "validation": {"every_steps": 0},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    return path
