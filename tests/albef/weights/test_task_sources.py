"""What each task's weights start from, against the official scripts' surgery, recorded key by key at full size."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.weights.official import official_names
from albef.weights.official_layouts import ALIGNMENT, NLVR2, PRETRAINING, VQA, Layout
from albef.weights.task_sources import Source, same_source, two_image_source, vqa_source
from tests.parity import goldens

RECORDED = goldens.load("checkpoint_remap").info


@cache
def full_size(layout: Layout) -> dict[str, Tensor]:
    """The base model's state dict on the meta device."""
    with torch.device("meta"):
        return dict(layout.model(AlbefConfig.base()).state_dict())


@pytest.mark.parametrize(
    ("surgery", "before", "after", "source"),
    [
        ("pretrain->vqa", PRETRAINING, VQA, vqa_source),
        ("pretrain->ta_pretrain", PRETRAINING, ALIGNMENT, two_image_source),
        ("ta_pretrain->nlvr", ALIGNMENT, NLVR2, same_source),
    ],
)
def test_each_weight_starts_from_the_recorded_one(surgery: str, before: Layout, after: Layout, source: Source) -> None:
    """Student, and teacher where the checkpoint has one; what is missing there is created, and is the recorded."""
    recorded = RECORDED[surgery]
    for teacher in (False, True) if before.teacher and after.teacher else (False,):
        old = official_names(full_size(before), teacher=teacher)
        new = official_names(full_size(after), teacher=teacher)
        copied = {official: old[source(ours)] for ours, official in new.items() if source(ours) in old}
        created = [official for ours, official in new.items() if source(ours) not in old]
        assert {official: recorded["dst_to_src"][official] for official in copied} == copied
        assert set(created) <= set(recorded["missing_in_checkpoint"])
        if not teacher:
            lacking = [name for name in recorded["missing_in_checkpoint"] if not name.split(".")[0].endswith("_m")]
            assert sorted(created) == sorted(lacking)
            shapes_before, shapes_after = full_size(before), full_size(after)
            for name in new:
                if source(name) in old:
                    assert shapes_after[name].shape == shapes_before[source(name)].shape, name


def test_nlvr2_can_start_without_text_assignment() -> None:
    """From pretraining, with all but its head."""
    old = full_size(PRETRAINING)
    created = [name for name in full_size(NLVR2) if two_image_source(name) not in old]
    assert created == ["cls_head.0.weight", "cls_head.0.bias", "cls_head.2.weight", "cls_head.2.bias"]
