"""Finding where a forward and backward stops being finite, with faults put in by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from pipeline.task import LaneStep
from pipeline.tasks.pretraining.task import Pretraining
from pipeline.watch.nonfinite import LaneReport, run_lane
from tests.albef.small import make_batch, make_queue, make_student

AT = LaneStep(step=0, epoch=0, lane=0, num_lanes=1, steps_per_epoch=1)


def looked(student: AlbefForPretraining, teacher: MomentumTeacher | None = None) -> LaneReport:
    teacher = teacher or MomentumTeacher(student, device="cpu")
    modules = {"student": student, "teacher": teacher.model}
    return run_lane(Pretraining.of_parts(student, teacher, make_queue()), modules, make_batch(), AT, seed=0)


def test_a_sound_step_shows_nothing() -> None:
    """No finding, and the same losses and gradient norm as computed by hand; no hook and no gradient is left behind."""
    student = make_student()
    found = looked(student)
    assert found.finite and found.first == "" and found.rows == [] and found.bad_gradients == []
    teacher, batch, queue = MomentumTeacher(student, device="cpu"), make_batch(), make_queue()
    targets = teacher.targets(batch)
    losses = student(batch, targets, queue, torch.tensor(0.4, dtype=torch.float64))
    losses.total.backward()
    squares = sum(p.grad.double().square().sum().item() for p in student.parameters() if p.grad is not None)
    assert found.gradient_norm == pytest.approx(math.sqrt(squares), rel=1e-5)  # fp32 sums in another order
    assert found.losses["loss"] == losses.total.item()
    student.zero_grad()
    assert looked(student) == found
    assert all(not module._forward_hooks for module in student.modules())


@pytest.mark.parametrize(
    "name", ["image_encoder.blocks.1.mlp.fc1", "text_encoder.layers.0.ffn.up", "multimodal_encoder.layers.1.ffn.down"]
)
def test_the_module_that_overflows_first_is_named(name: str) -> None:
    """One infinite weight: the module that holds it, of all those downstream that are not finite either."""
    student = make_student()
    teacher = MomentumTeacher(student, device="cpu")
    module: Any = student.get_submodule(name)
    with torch.no_grad():
        module.weight[0, 0] = math.inf
    found = looked(student, teacher)
    assert found.first == f"student {name}"
    assert not found.finite and found.bad_gradients


def test_the_teacher_is_looked_at_as_well() -> None:
    """What goes wrong in the teacher, which gets no gradient, is its fault and not the student's."""
    student = make_student()
    teacher = MomentumTeacher(student, device="cpu")
    module: Any = teacher.model.get_submodule("text_encoder.layers.0.ffn.down")
    with torch.no_grad():
        module.bias[2] = math.nan
    assert looked(student, teacher).first == "teacher text_encoder.layers.0.ffn.down"


def test_a_gradient_alone_is_found() -> None:
    """A forward that is finite throughout, and a backward that is not: only the gradients show it."""
    student = make_student()
    student.itm_head.weight.register_hook(lambda gradient: gradient * math.inf)
    found = looked(student)
    assert (found.first, found.finite, found.bad_gradients) == ("", False, ["itm_head.weight"])


def test_a_sample_alone_is_the_one_in_the_batch() -> None:
    """Its picture, texts and masked tokens, whose positions are those of its own row; together they are the batch."""
    batch = make_batch()
    alone = [batch.only(index) for index in range(5)]
    assert torch.equal(torch.cat([sample.mlm_labels for sample in alone]), batch.mlm_labels)
    for index, sample in enumerate(alone):
        assert torch.equal(sample.image[0], batch.image[index])
        assert torch.equal(sample.input_ids[0, sample.mlm_positions], sample.mlm_labels)
        assert sample.negative_draws.shape == (2, 1)
