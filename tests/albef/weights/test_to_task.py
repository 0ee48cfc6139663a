"""What each task's weights start from, against the official scripts' surgery, recorded key by key at full size."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.downstream.nlvr2 import AlbefForNlvr2
from albef.downstream.vqa import AlbefForVqa, VqaTeacher
from albef.errors import CheckpointError
from albef.momentum import MomentumTeacher
from albef.objective.queue import FeatureQueue
from albef.weights.official import official_names
from albef.weights.official_layouts import ALIGNMENT, ENTAILMENT, NLVR2, PRETRAINING, QUEUES, RETRIEVAL, VQA, Layout
from albef.weights.to_task import STARTS, start_queue, start_task, start_weights
from tests.albef.small import CONFIG, make_student
from tests.parity import goldens

RECORDED = goldens.load("checkpoint_remap").info
EQUAL_WIDTHS = dataclasses.replace(CONFIG, vision_width=CONFIG.text_width, vision_heads=2)


@cache
def full_size(layout: Layout) -> dict[str, Tensor]:
    """The base model's state dict on the meta device."""
    with torch.device("meta"):
        return dict(layout.model(AlbefConfig.base()).state_dict())


@pytest.mark.parametrize(
    ("surgery", "before", "after"),
    [
        ("pretrain->retrieval", PRETRAINING, RETRIEVAL),
        ("pretrain->grounding", PRETRAINING, RETRIEVAL),
        ("pretrain->ve", PRETRAINING, ENTAILMENT),
        ("pretrain->vqa", PRETRAINING, VQA),
        ("pretrain->ta_pretrain", PRETRAINING, ALIGNMENT),
        ("ta_pretrain->nlvr", ALIGNMENT, NLVR2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_weight_starts_from_the_recorded_one(surgery: str, before: Layout, after: Layout) -> None:
    """Student, and teacher where the checkpoint has one: copied, created and unused weights are the recorded ones."""
    recorded, start = RECORDED[surgery], STARTS[before.name, after.name]
    for teacher in (False, True) if before.teacher and after.teacher else (False,):
        old = official_names(full_size(before), teacher=teacher)
        new = official_names(full_size(after), teacher=teacher)
        weights, report = start_weights(
            {name: full_size(after)[name] for name in new},
            {name: full_size(before)[name] for name in old},
            source="pretraining",
        )
        assert list(weights) == list(new)
        copied = {new[name]: old[start.source(name)] for name in report.loaded}
        assert {name: recorded["dst_to_src"][name] for name in copied} == copied
        missing = [name for name in recorded["missing_in_checkpoint"] if name not in QUEUES]
        kept = [name for name in missing if name.split(".")[0].endswith("_m") == teacher]
        assert sorted(new[name] for name in report.created) == sorted(kept)
        assert {old[name] for name in report.unused} <= set(recorded["unexpected_in_checkpoint"])


def test_values_are_copied_and_the_report_names_the_rest() -> None:
    """VQA's decoder from the multimodal layers; the teacher from pretraining's; created weights keep their values."""
    pretrained = make_student(seed=1)
    assert pretrained.config.vision_width != pretrained.config.text_width
    model = AlbefForVqa(CONFIG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = start_task(model, pretrained.state_dict(), source="pretraining")
    ours, theirs = model.state_dict(), pretrained.state_dict()
    for name, source in (
        ("answer_decoder.embeddings.word.weight", "text_encoder.embeddings.word.weight"),
        (
            "answer_decoder.layers.1.cross_attention.query.weight",
            "multimodal_encoder.layers.1.cross_attention.query.weight",
        ),
        ("answer_decoder.head.bias", "mlm_head.bias"),
        ("image_encoder.pos_embed", "image_encoder.pos_embed"),
    ):
        assert torch.equal(ours[name], theirs[source]), name
    # images and texts have other widths here: these cannot be copied
    assert report.created == tuple(
        f"answer_decoder.layers.{i}.cross_attention.{part}.weight" for i in range(2) for part in ("key", "value")
    )
    assert all(torch.equal(ours[name], before[name]) for name in report.created)
    assert len(report.loaded) + len(report.created) == len(ours)
    assert "not used: temperature, image_proj.weight" in str(report) and "random: answer_decoder" in str(report)

    averaged = MomentumTeacher(pretrained, device="cpu").state_dict()
    teacher = VqaTeacher(model, device="cpu")
    moved = {name: tensor + 1 for name, tensor in averaged.items()}
    weights, _ = start_weights(teacher.state_dict(), moved, source="pretraining's teacher")
    teacher.load_state_dict(weights)
    assert torch.equal(teacher.state_dict()["answer_decoder.head.bias"], theirs["mlm_head.bias"] + 1)


def test_equal_widths_create_nothing_and_positions_are_resized() -> None:
    """As in the paper's model, at another image size."""
    with torch.random.fork_rng():
        pretrained = PRETRAINING.model(EQUAL_WIDTHS)
        model = AlbefForVqa(dataclasses.replace(EQUAL_WIDTHS, image_size=64))
    report = start_task(model, pretrained.state_dict(), source="pretraining")
    assert report.created == () and report.notes == ("position embeddings resized from 4 to 16 patches",)


def test_both_layers_of_a_pair_start_alike_and_text_assignment_passes_them_on() -> None:
    """NLVR2 from pretraining and by text assignment have the same encoders."""
    pretrained = make_student(seed=1).state_dict()
    alignment = ALIGNMENT.model(CONFIG)
    start_task(alignment, pretrained, source="pretraining")
    direct, after = AlbefForNlvr2(CONFIG), AlbefForNlvr2(CONFIG)
    assert start_task(direct, pretrained, source="pretraining").created[0].startswith("cls_head.")
    start_task(after, alignment.state_dict(), source="text assignment")
    for name, weight in direct.state_dict().items():
        if not name.startswith("cls_head."):
            assert torch.equal(weight, after.state_dict()[name]), name
    first, second = (direct.state_dict()[f"multimodal_encoder.layers.{i}.ffn.up.weight"] for i in (2, 3))
    assert torch.equal(first, second) and torch.equal(first, pretrained["multimodal_encoder.layers.1.ffn.up.weight"])


def test_weights_that_do_not_fit_are_errors_and_change_nothing() -> None:
    """One missing, one left over, and weights of another task."""
    pretrained, model = make_student(seed=1).state_dict(), AlbefForNlvr2(CONFIG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lacking = {name: tensor for name, tensor in pretrained.items() if name != "text_encoder.layers.1.ffn.up.bias"}
    with pytest.raises(CheckpointError, match=r"1 missing .text_encoder.layers\.1\.ffn\.up\.bias"):
        start_task(model, lacking, source="pretraining")
    with pytest.raises(CheckpointError, match=r"1 unknown .image_encoder\.extra"):
        start_task(model, pretrained | {"image_encoder.extra": torch.zeros(1)}, source="pretraining")
    with pytest.raises(CheckpointError, match="is of visual question answering, and a model of NLVR2 does not"):
        start_task(model, AlbefForVqa(CONFIG).state_dict(), source="vqa.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_rows_of_pretrainings_queue_are_of_no_image() -> None:
    """Retrieval's queue takes features and pointer; the ids, which are all that the checkpoint lacks, are none."""
    pretrained = FeatureQueue(6, 4, seed=3)
    pretrained.gather(torch.ones(2, 4), torch.zeros(2, 4))
    pretrained.enqueue()
    queue = FeatureQueue(6, 4, seed=0, with_ids=True)
    start_queue(queue, {"image": pretrained.image, "text": pretrained.text, "pointer": torch.tensor(2)})
    assert torch.equal(queue.image, pretrained.image) and torch.equal(queue.text, pretrained.text)
    assert queue.pointer == 2 and queue.ids is not None and queue.ids.tolist() == [-100] * 6
