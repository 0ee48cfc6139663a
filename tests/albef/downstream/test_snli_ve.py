"""Visual entailment's model: ten pairs can be learned by heart, and the teacher follows."""

from __future__ import annotations

import torch

from albef.config import DistillConfig
from albef.downstream.snli_ve import AlbefForEntailment, EntailmentTeacher
from albef.inputs.snli_ve_batch import CLASSES, EntailmentBatch
from tests.albef.small import CONFIG, make_batch


def test_ten_pairs_are_learned_by_heart() -> None:
    """All three classes, with a moving teacher: its logits end at the labels too."""
    pairs = make_batch(size=10)
    batch = EntailmentBatch(
        image=pairs.image,
        input_ids=pairs.input_ids,
        attention_mask=pairs.attention_mask,
        labels=torch.arange(10) % len(CLASSES),
    )
    torch.manual_seed(0)
    student = AlbefForEntailment(CONFIG, DistillConfig(momentum=0.9)).eval()
    teacher = EntailmentTeacher(student, device="cpu")
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    alpha = torch.tensor(0.4, dtype=torch.float64)
    first = student(batch, teacher.targets(batch), alpha)
    for _ in range(80):
        output = student(batch, teacher.targets(batch), alpha)
        optimizer.zero_grad()
        output.total.backward()
        optimizer.step()
        teacher.update(student)
    assert output.accuracy == 1 and output.total < first.total / 5
    assert torch.equal(teacher.targets(batch).argmax(dim=1), batch.labels)
