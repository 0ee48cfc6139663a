"""A step of visual entailment against the tensors recorded from the official code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from albef.config import DistillConfig
from albef.downstream.snli_ve import AlbefForEntailment, EntailmentTeacher
from albef.inputs.snli_ve_batch import EntailmentBatch
from albef.weights.official import from_official, official_names
from tests.parity import goldens

GOLDEN = goldens.load("ve_tiny")
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def build(dtype: torch.dtype) -> tuple[AlbefForEntailment, EntailmentTeacher, EntailmentBatch]:
    """Student in eval mode and teacher, with the recorded weights, after the update that the original begins with."""
    config = goldens.model_config(GOLDEN)
    weights = from_official(
        GOLDEN.under("state/"),
        vision_heads=config.vision_heads,
        text_heads=config.text_heads,
        embed_dim=config.embed_dim,
    )
    assert weights.teacher is not None
    recorded = GOLDEN.info["config"]
    objective = DistillConfig(alpha=recorded["alpha"], momentum=recorded["momentum"])
    student = AlbefForEntailment(weights.config, objective)
    student.load_state_dict(weights.student)
    student.to(dtype).eval()
    teacher = EntailmentTeacher(student, device="cpu", compute_dtype=dtype)
    teacher.load_state_dict(weights.teacher)
    teacher.update(student)
    batch = EntailmentBatch(
        image=GOLDEN["in/image"].to(dtype),
        input_ids=GOLDEN["in/input_ids"],
        attention_mask=GOLDEN["in/attention_mask"],
        labels=GOLDEN["in/targets"],
    )
    return student, teacher, batch


def check(key: str, ours: Tensor, dtype: torch.dtype) -> None:
    recorded = GOLDEN[key]
    goldens.check(key, ours, recorded, goldens.tolerance(GOLDEN, key, recorded, dtype))


@DTYPES
def test_logits_losses_and_gradients(dtype: torch.dtype) -> None:
    """Logits of student and teacher; the loss at alpha, at 0 and without a teacher; every gradient; the averages."""
    student, teacher, batch = build(dtype)
    targets = teacher.targets(batch)
    check("out/prediction_m", targets, dtype)
    alpha = torch.tensor(student.objective.alpha, dtype=torch.float64)
    output = student(batch, targets, alpha)
    check("out/prediction", output.logits, dtype)
    check("out/prediction_eval", student.predict(batch.image, batch.input_ids, batch.attention_mask), dtype)
    check("alpha/out/loss", output.total, dtype)
    check("alpha0/out/loss", student(batch, targets, torch.zeros_like(alpha)).total, dtype)
    check("nodistill/out/loss", student(batch, None, alpha).total, dtype)
    hits = GOLDEN["out/prediction"].argmax(dim=1) == batch.labels
    assert float(output.accuracy) == pytest.approx(float(hits.double().mean()), abs=1e-6)

    output.total.backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    names = official_names(student.state_dict())
    assert set(names.values()) == GOLDEN.under("grad/").keys() and set(names) == set(gradients)
    for ours, official in names.items():
        gradient = gradients[ours]
        assert gradient is not None, ours
        check(f"grad/{official}", gradient, dtype)
    averaged = teacher.state_dict()
    names = official_names(student.state_dict(), teacher=True)
    assert set(names.values()) == GOLDEN.under("post_m/").keys() and set(names) == set(averaged)
    for ours, official in names.items():
        check(f"post_m/{official}", averaged[ours], dtype)
