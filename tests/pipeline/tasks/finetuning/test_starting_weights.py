"""Which weights student and teacher of a task start from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from albef.model import AlbefForPretraining
from albef.weights.official import to_official
from pipeline.config.resolve import load_config
from pipeline.engine.distributed import World
from pipeline.tasks.makers import maker_of
from tests.support.entailment_run import entailment_recipe
from tests.support.finetuning import shape
from tests.support.nlvr2_run import nlvr2_recipe
from tests.support.vqa_run import vqa_recipe

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


def in_pretraining(task: str, name: str) -> str | None:
    """The weight of pretraining's model that one of a task's is a copy of; None for one that is created."""
    if name.startswith("cls_head."):
        return None
    if task == "vqa":  # the decoder: word embeddings, layers that read images, and the head over words
        name = re.sub(r"^answer_decoder\.embeddings", "text_encoder.embeddings", name)
        name = re.sub(r"^answer_decoder\.layers", "multimodal_encoder.layers", name)
        name = re.sub(r"^answer_decoder\.head", "mlm_head", name)
    if task == "nlvr2" and (layer := re.match(r"multimodal_encoder\.layers\.(\d+)\.(.*)", name)):
        name = f"multimodal_encoder.layers.{int(layer[1]) // 2}.{layer[2]}"
    return name


@pytest.mark.parametrize(
    ("recipe", "task", "preset"),
    [
        (entailment_recipe, "snli-ve", "fixed"),
        (vqa_recipe, "vqa", "fixed"),
        (nlvr2_recipe, "nlvr2", "fixed"),
        (nlvr2_recipe, "nlvr2", "paper"),
    ],
)
def test_a_teacher_starts_from_the_momentum_weights_of_an_official_file(
    tmp_path: Path, recipe: Callable[[Path], Path], task: str, preset: str
) -> None:
    """As the original does: the student from the file's weights, the teacher from those with `_m`. What is created is
    the same in both. NLVR2's teacher too, also where it is made before the load."""
    torch.manual_seed(3)
    trained, averaged = (AlbefForPretraining(shape()).state_dict() for _ in range(2))
    momentum = {name: weight for name, weight in averaged.items() if not name.startswith(("itm_head.", "temperature"))}
    torch.save({"model": to_official(trained, momentum)}, tmp_path / "ALBEF.pth")
    overrides = [f"--init.model={tmp_path / 'ALBEF.pth'}", f"--preset={preset}", "--schedule.warmup_steps=0"]
    made = maker_of(task).make(load_config(recipe(tmp_path), overrides), ALONE, torch.float32)
    student, teacher = made.model.state_dict(), made.state()["teacher"]
    assert student.keys() == teacher.keys()
    for name, weight in student.items():
        origin = in_pretraining(task, name)
        assert torch.equal(weight, trained[origin]) if origin else torch.equal(weight, teacher[name]), name
        assert origin is None or torch.equal(teacher[name], averaged[origin]), name
