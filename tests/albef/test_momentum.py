"""The momentum teacher: its average against one written out, its precision, its targets against plain softmaxes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from albef.config import AlbefConfig, ObjectiveConfig
from albef.errors import CheckpointError
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher, MomentumWeights
from tests.albef.small import CONFIG, make_batch, make_student


def nudge(student: nn.Module, seed: int) -> None:
    """A stand-in for an optimizer step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.01)


def test_average_is_the_formula() -> None:
    """p_m = m p_m + (1 - m) p after each of three steps, for every shared weight; no ITM head, no temperature."""
    student = make_student(dtype=torch.float64, momentum=0.9)
    teacher = MomentumTeacher(student, device="cpu")
    expected: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in student.named_parameters()}
    for step in range(3):
        nudge(student, step)
        teacher.update(student)
        for name, weight in student.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * weight.detach()
    state = teacher.state_dict()
    assert expected.keys() - state.keys() == {"temperature", "itm_head.weight", "itm_head.bias"}
    assert state.keys() < expected.keys()
    for name, averaged in state.items():
        assert averaged.dtype == torch.float64
        assert torch.allclose(averaged, expected[name], rtol=1e-12, atol=1e-14), name


def test_a_bf16_student_moves_an_fp32_teacher() -> None:
    """A step too small for a bf16 average arrives in the fp32 one, and once large enough in the copy that computes."""
    student = make_student(dtype=torch.bfloat16)
    teacher = MomentumTeacher(student, device="cpu", compute_dtype=torch.bfloat16)
    start = student.image_proj.weight.detach().clone()
    with torch.no_grad():
        student.image_proj.weight.mul_(1.0625)
    frozen = start.clone().mul_(0.995).add_(student.image_proj.weight.detach(), alpha=0.005)
    assert (frozen == start).double().mean() > 0.9, "a bf16 average would have moved: the test shows nothing"
    teacher.update(student)
    moved = teacher.state_dict()["image_proj.weight"]
    assert moved.dtype == torch.float32
    exact = 0.995 * start.double() + 0.005 * student.image_proj.weight.detach().double()
    assert torch.allclose(moved.double(), exact, rtol=1e-6, atol=0)
    for _ in range(100):
        teacher.update(student)
    assert teacher.model.image_proj.weight.dtype == torch.bfloat16
    assert torch.equal(teacher.model.image_proj.weight, teacher.state_dict()["image_proj.weight"].bfloat16())
    assert not torch.equal(teacher.model.image_proj.weight, start)


def test_teacher_is_apart_from_the_student() -> None:
    """It starts equal, shares no memory, asks for no gradient, and follows a student inside a wrapper."""
    student = make_student()
    teacher = MomentumTeacher(student, device="cpu")
    ours = dict(student.named_parameters())
    for name, weight in teacher.model.named_parameters():
        assert torch.equal(weight, ours[name]) and weight.data_ptr() != ours[name].data_ptr()
        assert not weight.requires_grad
    before = teacher.state_dict()["image_proj.weight"]
    nudge(student, 0)
    assert torch.equal(teacher.state_dict()["image_proj.weight"], before)
    wrapper = nn.Module()
    wrapper.module = student
    teacher.update(wrapper)
    assert not torch.equal(teacher.state_dict()["image_proj.weight"], before)


def test_targets_are_a_plain_forward() -> None:
    """Features, and the vocabulary logits at masked positions, one by one."""
    student, batch = make_student(dtype=torch.float64), make_batch()
    teacher = MomentumTeacher(student, device="cpu")
    nudge(student, 0)  # so that a mix-up of student and teacher shows
    torch.tensor([0.05], dtype=torch.float64)
    targets = teacher.targets(batch)
    model = teacher.model
    image_embeds, image_feat = model.encode_image(batch.image)
    _, text_feat = model.encode_text(batch.input_ids, batch.attention_mask)
    assert torch.allclose(targets.image_feat, image_feat, atol=1e-12)
    assert torch.allclose(targets.text_feat, text_feat, atol=1e-12)
    masked, _ = model.encode_text(batch.mlm_input_ids, batch.attention_mask)
    fused = model.multimodal_encoder(masked, batch.attention_mask, image_embeds).flatten(0, 1)
    assert targets.mlm_logits is not None
    predicted = targets.mlm_logits.whole()
    assert predicted.shape[0] == len(batch.mlm_positions) > 0
    for row, position in enumerate(batch.mlm_positions.tolist()):
        logits = model.mlm_head(fused[position]) @ model.text_encoder.embeddings.word.weight.T + model.mlm_head.bias
        assert torch.allclose(predicted[row], logits, atol=1e-12)
    given = [target for target in vars(targets).values() if isinstance(target, torch.Tensor)]
    assert len(given) == 2 and not any(target.requires_grad for target in [*given, *targets.mlm_logits])


def test_distillation_switched_off_skips_its_work() -> None:
    """Without MLM targets no masked text and no multimodal pass."""
    batch = make_batch()
    switched_off: list[dict[str, Any]] = [{"distill_itc": False, "distill_mlm": False}, {"itc": False, "mlm": False}]
    for changes in switched_off:
        teacher = MomentumTeacher(make_student(**changes), device="cpu")
        rows: list[int] = []
        passes: list[int] = []
        teacher.model.text_encoder.register_forward_hook(lambda _m, _i, output, rows=rows: rows.append(len(output)))
        teacher.model.multimodal_encoder.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        targets = teacher.targets(batch)
        assert targets.mlm_logits is None
        assert targets.image_feat.shape == targets.text_feat.shape == (len(batch.image), CONFIG.embed_dim)
        assert rows == [len(batch.image)] and passes == []


def test_masked_and_clean_text_are_one_batch() -> None:
    """One pass of the text encoder over 2 B rows, one multimodal pass over B rows."""
    batch = make_batch()
    teacher = MomentumTeacher(make_student(), device="cpu")
    rows: list[tuple[str, int]] = []
    for name in ("text_encoder", "multimodal_encoder"):
        module = getattr(teacher.model, name)
        module.register_forward_hook(lambda _m, inputs, _o, name=name: rows.append((name, len(inputs[0]))))
    teacher.targets(batch)
    size = len(batch.image)
    assert rows == [("text_encoder", 2 * size), ("multimodal_encoder", size)]


@pytest.mark.parametrize("switched_on", [False, True])
def test_teacher_dropout_is_a_switch(switched_on: bool) -> None:
    """Off, the targets do not depend on the generator, though the student trains; on, they do."""
    config = AlbefConfig(**(CONFIG.to_dict() | {"hidden_dropout": 0.5}))
    student = AlbefForPretraining(config, ObjectiveConfig(queue_size=8, teacher_dropout=switched_on)).train()
    teacher = MomentumTeacher(student, device="cpu")
    feats = []
    for seed in range(2):
        torch.manual_seed(seed)
        feats.append(teacher.targets(make_batch()).text_feat)
    assert torch.equal(*feats) != switched_on


def test_low_precision_teacher_gives_fp32_targets() -> None:
    """A bf16 forward yields features in fp32, near those of an fp32 forward; MLM logits stay factors."""
    student, batch = make_student(), make_batch()
    wide = MomentumTeacher(student, device="cpu").targets(batch)
    low = MomentumTeacher(student, device="cpu", compute_dtype=torch.bfloat16).targets(batch)
    for name in ("image_feat", "text_feat"):
        tensor = vars(low)[name]
        assert tensor.dtype == torch.float32, name
        # bf16 has 8 bits; a feature's error of 1% moves a logit by about 0.01 / 0.07
        assert torch.allclose(tensor, vars(wide)[name], atol=0.05), name
    assert low.mlm_logits is not None and wide.mlm_logits is not None
    probabilities = low.mlm_logits.whole().float().softmax(dim=1)
    assert torch.allclose(probabilities, wide.mlm_logits.whole().softmax(dim=1), atol=0.05)


def test_state_comes_back_to_the_bit() -> None:
    """A restored teacher continues as the saved one would, its compute copy included."""
    student = make_student()
    teacher = MomentumTeacher(student, device="cpu", compute_dtype=torch.bfloat16)
    nudge(student, 0)
    teacher.update(student)
    state = teacher.state_dict()
    kept = copy.deepcopy(state)
    other = make_student(seed=5)
    restored = MomentumTeacher(other, device="cpu", compute_dtype=torch.bfloat16)
    restored.load_state_dict(state)
    for one in (teacher, restored):
        one.update(student)
    again = restored.state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in teacher.state_dict().items())
    assert torch.equal(teacher.model.image_proj.weight, restored.model.image_proj.weight)
    assert all(torch.equal(weight, kept[name]) for name, weight in state.items()), "the saved state moved"


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


def test_the_weights_of_any_module_are_averaged_and_shared_ones_stay_shared() -> None:
    """One weight, moved once per update, in the precision that computes too; a copy starts from the student again."""
    student = Tied().double()
    teacher = MomentumWeights(student, Tied, momentum=0.9, device="cpu", compute_dtype=torch.float32)
    start = student.first.weight.detach().clone()
    nudge(student, 0)
    teacher.update(student)
    expected = 0.9 * start + 0.1 * student.first.weight.detach()
    assert list(teacher.state_dict()) == ["first.weight"]
    for model in (teacher.weights, teacher.model):
        assert model.second.weight is model.first.weight and not model.first.weight.requires_grad
        assert torch.allclose(model.first.weight.double(), expected, atol=1e-7)
    teacher.copy_from(student)
    assert torch.equal(teacher.state_dict()["first.weight"], student.first.weight)
    assert torch.equal(teacher.model.first.weight, student.first.weight.float())


def test_a_state_that_does_not_fit_is_refused() -> None:
    """A missing, an unknown and a misshapen weight are each an error that names it."""
    teacher = MomentumTeacher(make_student(), device="cpu")
    state = teacher.state_dict()
    missing = {name: weight for name, weight in state.items() if name != "text_proj.bias"}
    misshapen = state | {"text_proj.bias": torch.zeros(3)}
    for wrong, name in (
        (missing, "text_proj.bias"),
        (misshapen, "text_proj.bias"),
        (state | {"other": torch.zeros(1)}, "other"),
    ):
        with pytest.raises(CheckpointError, match=name):
            teacher.load_state_dict(wrong)
