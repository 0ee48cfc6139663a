"""Activation checkpointing: the same numbers from fewer kept tensors."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from albef.model import AlbefForPretraining, PretrainOutput
from albef.momentum import MomentumTeacher
from tests.albef.small import CONFIG, make_batch, make_queue

ALPHA = torch.tensor(0.4, dtype=torch.float64)


def step(*, checkpointing: bool, dtype: torch.dtype) -> tuple[PretrainOutput, dict[str, Tensor], int]:
    """Output, gradients, and the bytes that autograd keeps between forward and backward; with dropout."""
    config = dataclasses.replace(CONFIG, hidden_dropout=0.2, attention_dropout=0.2, vision_depth=3, fusion_depth=3)
    torch.manual_seed(5)
    student = AlbefForPretraining(config).to(dtype).train()
    teacher = MomentumTeacher(student, device="cpu")
    if checkpointing:
        student.checkpoint_activations()
    batch = make_batch()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    targets = teacher.targets(batch)
    torch.manual_seed(6)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = student(batch, targets, make_queue(), ALPHA)
    assert isinstance(output, PretrainOutput)
    output.total.backward()
    gradients = {name: one.grad for name, one in student.named_parameters() if one.grad is not None}
    return output, gradients, sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_numbers_stay_and_the_memory_falls(dtype: torch.dtype) -> None:
    """Losses and gradients to the bit, although every layer's dropout is drawn twice."""
    plain, gradients, bytes_kept = step(checkpointing=False, dtype=dtype)
    again, same, fewer = step(checkpointing=True, dtype=dtype)
    assert torch.equal(plain.total, again.total) and gradients.keys() == same.keys()
    assert [name for name, one in gradients.items() if not torch.equal(one, same[name])] == []
    assert fewer < 0.6 * bytes_kept
