"""Grad-CAM maps of the matching logit against the recorded official ones, and the notebook's of single texts."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from albef.downstream.retrieval import AlbefForRetrieval
from albef.gradcam import RecordedAttention, cross_attention, token_maps
from albef.gradcam_itc import class_attention, image_maps
from albef.network.vision import ImageAttention
from albef.weights.files import load_strictly
from albef.weights.official import from_official
from tests.parity import goldens

GOLDEN = goldens.load("gradcam_tiny")
FIRST_FUSED = GOLDEN.info["bert_config"]["fusion_layer"]
BLOCKS = sorted({int(found[1]) for key in GOLDEN.tensors if (found := re.match(r"itm/block(\d+)/", key))})
IMAGE_BLOCKS = sorted({int(found[1]) for key in GOLDEN.tensors if (found := re.match(r"itc/block(\d+)/", key))})
SAMPLE = re.compile(r"notebook/block(\d+)/sample(\d+)/")
SAMPLES = sorted({(int(found[1]), int(found[2])) for key in GOLDEN.tensors if (found := SAMPLE.match(key))})


def run(
    dtype: torch.dtype, block: int, rows: slice = slice(None), *, trim: bool = False
) -> tuple[RecordedAttention, Tensor]:
    """The recorded pairs through the recorded model, which is in the retrieval layout; and their mask."""
    config = goldens.model_config(GOLDEN)
    weights = from_official(GOLDEN.under("state/"), vision_heads=config.vision_heads, text_heads=config.text_heads)
    model = AlbefForRetrieval(config)
    load_strictly(model, weights.student, source="gradcam_tiny")
    mask = GOLDEN["in/attention_mask"][rows]
    length = int(mask.sum(dim=1).max()) if trim else mask.shape[1]
    mask, input_ids = mask[:, :length], GOLDEN["in/input_ids"][rows, :length]
    image = GOLDEN["in/image"][rows].to(dtype)
    return cross_attention(model.to(dtype), image, input_ids, mask, layer=block - FIRST_FUSED), mask


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("block", BLOCKS)
def test_maps_are_the_recorded_ones(block: int, dtype: torch.dtype) -> None:
    """Attention, its gradient, the map of each token and of each text (its mean over tokens, padding included)."""
    found, mask = run(dtype, block)
    maps = token_maps(found, mask)
    ours = {
        f"itm/block{block}/attention": found.weights,
        f"itm/block{block}/attention_grad": found.gradient,
        f"itm/block{block}/token_maps": maps,
        f"itm/block{block}/map": maps.mean(dim=1),
        "itm/logits": found.logits,
    }
    for key, tensor in ours.items():
        if key in GOLDEN.info["pad_positions_zeroed"]:
            tensor = tensor * mask[:, None, :, None]
        goldens.check(key, tensor, GOLDEN[key], goldens.tolerance(GOLDEN, key, GOLDEN[key], dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("block", "sample"), SAMPLES)
def test_maps_of_a_single_text_are_the_notebooks(block: int, sample: int, dtype: torch.dtype) -> None:
    """One pair without padding, as the official notebook draws its pictures."""
    key = f"notebook/block{block}/sample{sample}/token_maps"
    found, mask = run(dtype, block, slice(sample, sample + 1), trim=True)
    goldens.check(key, token_maps(found, mask)[0], GOLDEN[key], goldens.tolerance(GOLDEN, key, GOLDEN[key], dtype))


@pytest.mark.parametrize("inference", [False, True], ids=["", "inference mode"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("block", IMAGE_BLOCKS)
def test_maps_of_the_image_encoder_are_the_recorded_ones(block: int, dtype: torch.dtype, inference: bool) -> None:
    """The class token's attention, its gradient of each pair's similarity, and the map; frozen weights need none."""
    config = goldens.model_config(GOLDEN)
    weights = from_official(GOLDEN.under("state/"), vision_heads=config.vision_heads, text_heads=config.text_heads)
    with torch.inference_mode(inference):
        model = AlbefForRetrieval(config)
        load_strictly(model, weights.student, source="gradcam_tiny")
        model.to(dtype).requires_grad_(False)
        inputs = (GOLDEN["in/image"].to(dtype), GOLDEN["in/input_ids"], GOLDEN["in/attention_mask"])
        found = class_attention(model, *inputs, model.temperature, layer=block)
    ours = {
        f"itc/block{block}/cls_attention": found.weights,
        f"itc/block{block}/cls_attention_grad": found.gradient,
        f"itc/block{block}/map": image_maps(found),
    }
    for key, tensor in ours.items():
        goldens.check(key, tensor, GOLDEN[key], goldens.tolerance(GOLDEN, key, GOLDEN[key], dtype))
    similarity = GOLDEN["itc/sim"]
    allowed = goldens.tolerance(GOLDEN, "itc/sim", similarity, dtype)
    goldens.check("itc/sim", found.similarity, similarity.diag(), allowed)
    kept = [part.weights for part in model.modules() if isinstance(part, ImageAttention)]
    assert kept and all(weights is None for weights in kept), "attention is kept after its use"
