"""How well a pretrained model keeps captions that match their picture apart from those that do not."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from albef import Albef

BATCH = 100


@torch.no_grad()
def matching_accuracy(model: Albef, world: Path, split: str) -> float:
    """Percent of the split's balanced pairs that get more, or less, than one half where they should.

    A caption stands once with its picture and once with a picture that it is false of, so guessing has 50%.
    """
    rows: list[dict[str, Any]] = json.loads((world / "annotations" / f"itm_{split}.json").read_text())
    right = 0
    with zipfile.ZipFile(world / "images.zip") as pictures:
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            images = [Image.open(io.BytesIO(pictures.read(row["image"]))).convert("RGB") for row in part]
            found = model.match(images, [row["caption"] for row in part])
            right += sum((p > 0.5) == (row["label"] == "True") for p, row in zip(found.tolist(), part, strict=True))
    return 100 * right / len(rows)
