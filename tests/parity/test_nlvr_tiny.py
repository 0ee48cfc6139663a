"""A step of NLVR2 against the tensors recorded from the official code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from albef.config import Nlvr2Config
from albef.downstream.nlvr2 import AlbefForNlvr2, Nlvr2Teacher
from albef.inputs.nlvr2_batch import Nlvr2Batch
from albef.weights.official import from_official, official_names
from tests.parity import goldens

GOLDEN = goldens.load("nlvr_tiny")
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def build(dtype: torch.dtype) -> tuple[AlbefForNlvr2, Nlvr2Teacher, Nlvr2Batch]:
    """Student in eval mode and teacher, with the recorded weights, after the update that the original begins with."""
    shape, recorded = goldens.model_config(GOLDEN), GOLDEN.info["config"]
    weights = from_official(GOLDEN.under("state/"), vision_heads=shape.vision_heads, text_heads=shape.text_heads)
    assert weights.teacher is not None and weights.config.fusion_depth == shape.fusion_depth
    student = AlbefForNlvr2(weights.config, Nlvr2Config(alpha=recorded["alpha"], momentum=recorded["momentum"]))
    student.load_state_dict(weights.student)
    student.to(dtype).eval()
    teacher = Nlvr2Teacher(student, device="cpu", compute_dtype=dtype)
    teacher.load_state_dict(weights.teacher)
    teacher.update(student)
    image = torch.cat([GOLDEN["in/image0"], GOLDEN["in/image1"]]).to(dtype)
    inputs: dict[str, Any] = {key: GOLDEN[f"in/{key}"] for key in ("input_ids", "attention_mask")}
    return student, teacher, Nlvr2Batch(image=image, labels=GOLDEN["in/targets"], **inputs)


def check(key: str, ours: Tensor, dtype: torch.dtype) -> None:
    recorded = GOLDEN[key]
    goldens.check(key, ours, recorded, goldens.tolerance(GOLDEN, key, recorded, dtype))


@DTYPES
def test_predictions_and_losses(dtype: torch.dtype) -> None:
    """Of student and teacher; the images in the other order too; at the recorded alpha, at zero, without a teacher."""
    student, teacher, batch = build(dtype)
    targets = teacher.targets(batch)
    check("out/prediction_m", targets, dtype)
    alpha = torch.tensor(student.objective.alpha, dtype=torch.float64)
    output = student(batch, targets, alpha)
    check("out/prediction", output.logits, dtype)
    check("alpha/out/loss", output.total, dtype)
    check("alpha0/out/loss", student(batch, targets, torch.zeros_like(alpha)).total, dtype)
    check("nodistill/out/loss", student(batch, None, alpha).total, dtype)
    texts = batch.input_ids, batch.attention_mask
    check("out/hidden_cls", student.fuse_cls(*texts, student.image_encoder(batch.image)), dtype)
    check("out/prediction_eval", student.predict(batch.image, *texts), dtype)
    swapped = torch.cat(batch.image.chunk(2)[::-1])
    check("out/prediction_eval_swapped", student.predict(swapped, *texts), dtype)


@DTYPES
def test_gradients_and_teacher(dtype: torch.dtype) -> None:
    """Of every parameter at the recorded alpha, the shared keys and values once; and the averaged teacher."""
    student, teacher, batch = build(dtype)
    student(batch, teacher.targets(batch), torch.tensor(student.objective.alpha, dtype=torch.float64)).total.backward()
    names = official_names(student.state_dict())
    gradients = {names[name]: parameter.grad for name, parameter in student.named_parameters()}
    assert gradients.keys() == GOLDEN.under("grad/").keys()
    for name, gradient in gradients.items():
        assert gradient is not None, name
        check(f"grad/{name}", gradient, dtype)
    names = official_names(student.state_dict(), teacher=True)
    averaged = {names[name]: weight for name, weight in teacher.state_dict().items()}
    assert averaged.keys() == GOLDEN.under("post_m/").keys()
    for name, weight in averaged.items():
        check(f"post_m/{name}", weight, dtype)
