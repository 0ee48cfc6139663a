"""Accuracy of boxes against the recorded official evaluation, and overlaps of boxes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from albef.grounding.boxes import AREA_EXPONENT, iou
from pipeline.tasks.grounding.evaluation import metrics, point
from tests.parity import goldens

GOLDEN: dict[str, Any] = json.loads((goldens.folder() / "eval_metrics.json").read_text())


def test_accuracies_are_the_recorded_ones() -> None:
    """The recorded maps, detections and true boxes: the share of right boxes of each split."""
    grounding = GOLDEN["grounding"]
    assert grounding["alpha"] == AREA_EXPONENT
    found = [
        point(torch.tensor(item["pred_map"]), item["gt_box"], (item["width"], item["height"]), item["dets"])
        for item in grounding["items"]
    ]
    values = metrics(found, [item["split"] for item in grounding["items"]])
    for split in ("val", "testA", "testB"):
        assert values[f"accuracy_{split}"] / 100 == pytest.approx(grounding["result"][f"{split}_d"], abs=1e-12)


def test_overlaps_are_the_recorded_ones() -> None:
    """With the convention of the last pixel, in either order of the boxes."""
    for case in GOLDEN["iou"]:
        for one, other in ((case["box1"], case["box2"]), (case["box2"], case["box1"])):
            assert iou(one, other) == pytest.approx(case["iou"], abs=1e-12)
