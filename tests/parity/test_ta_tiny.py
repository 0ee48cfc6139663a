"""A step of text assignment against the tensors recorded from the official code, with its image pairs injected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from albef.downstream.alignment import AlbefForAlignment, ImagePairs
from albef.inputs.alignment_batch import AlignmentBatch
from albef.objective.negatives import negative_weights
from albef.weights.official import from_official, official_names
from tests.parity import goldens

GOLDEN = goldens.load("ta_tiny")
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def check(key: str, ours: Tensor, dtype: torch.dtype) -> None:
    recorded = GOLDEN[key]
    goldens.check(key, ours, recorded, goldens.tolerance(GOLDEN, key, recorded, dtype))


@DTYPES
def test_similarities_logits_loss_and_gradients(dtype: torch.dtype) -> None:
    """Parameters that officially have no gradient have none; the distribution of others is the recorded one."""
    shape = goldens.model_config(GOLDEN)
    weights = from_official(GOLDEN.under("state/"), vision_heads=shape.vision_heads, text_heads=shape.text_heads)
    model = AlbefForAlignment(weights.config)
    model.load_state_dict(weights.student)
    model.to(dtype).eval()
    image = GOLDEN["in/image"].to(dtype)
    inputs: dict[str, Any] = {key: GOLDEN[f"in/{key}"] for key in ("input_ids", "attention_mask")}
    batch = AlignmentBatch(image=image, draws=torch.full((4, len(image)), torch.nan, dtype=torch.float64), **inputs)

    recorded = GOLDEN["out/sim_weights"]
    ours, valid = negative_weights(model.similarities(model.image_encoder(image)))
    assert valid.all()
    # there the text's own image is zeroed after the softmax, and the rest is not normalised
    check("out/sim_weights", ours.double() * recorded.sum(dim=1, keepdim=True), dtype)

    first, second, labels = (GOLDEN[f"inj/{key}"] for key in ("image0_idx", "image1_idx", "label"))
    output = model(batch, pairs=ImagePairs(first=first, second=second, labels=labels))
    check("out/pred", output.logits, dtype)
    check("out/loss", output.total, dtype)
    output.total.backward()
    names = official_names(model.state_dict())
    gradients = {names[name]: parameter.grad for name, parameter in model.named_parameters()}
    without = sorted(name for name, gradient in gradients.items() if gradient is None)
    assert without == sorted(GOLDEN.info["no_grad_params"])
    assert gradients.keys() - set(without) == GOLDEN.under("grad/").keys()
    for name, gradient in gradients.items():
        if gradient is not None:
            check(f"grad/{name}", gradient, dtype)
