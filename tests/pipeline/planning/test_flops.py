"""The counted arithmetic of a step, by part, against torch's counter alone and against formulas."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.resolve import load_config
from pipeline.config.run_config import RunConfig
from pipeline.planning.flops import MEAN_TEXT_TOKENS, flops_by_part, flops_per_sample, needed_flops, sketched_lane
from pipeline.tasks.pretraining.maker import PRETRAINING
from tests.support.tiny_run import tiny_recipe

BATCH = 4


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return load_config(str(tiny_recipe(tmp_path)), [])


def test_parts_add_up_to_torch_s_count(run: RunConfig) -> None:
    """Nothing is lost between the parts, and nothing counts twice."""
    parts = flops_by_part(PRETRAINING.sketch(run, torch.float32), PRETRAINING.noise(run, BATCH))
    counter = FlopCounterMode(display=False)
    with counter:
        sketched_lane(PRETRAINING.sketch(run, torch.float32), PRETRAINING.noise(run, BATCH)).total.backward()
    assert sum(parts.values()) * BATCH == counter.get_total_flops()
    children = ["image_encoder", "text_encoder", "multimodal_encoder", "mlm_head"]
    assert {f"{pass_} {child}" for pass_ in ("forward", "backward") for child in children} <= parts.keys()


def test_the_image_encoder_s_part_by_hand(run: RunConfig) -> None:
    """Patches, and in each block four products of widths and two of attention; backward is twice that, without the
    gradient of the pixels."""
    model = run.model
    width, tokens = model.vision_width, model.num_patches + 1
    patches = 2 * model.num_patches * 3 * model.patch_size**2 * width
    block = 2 * tokens * width * (3 + 1 + 4 + 4) * width + 2 * 2 * tokens**2 * width
    parts = flops_by_part(PRETRAINING.sketch(run, torch.float32), PRETRAINING.noise(run, BATCH))
    assert parts["forward image_encoder"] == patches + model.vision_depth * block
    backward = parts["backward image_encoder"] / (patches + 2 * model.vision_depth * block)
    assert 1 <= backward < 1.15  # fused attention computes its scores once more


def test_needed_is_what_texts_of_the_mean_length_cost(run: RunConfig) -> None:
    """And never more than what is computed, where texts are cut shorter than that."""
    as_long = dataclasses.replace(run, objective=dataclasses.replace(run.objective, max_text_tokens=MEAN_TEXT_TOKENS))
    counted = [
        flops_per_sample(PRETRAINING.sketch(one, torch.float32), PRETRAINING.noise(one, run.batch.micro_batch_size))
        for one in (as_long, run)
    ]
    assert needed_flops(run, PRETRAINING, torch.float32) == counted[0] < counted[1]
    short = dataclasses.replace(run, objective=dataclasses.replace(run.objective, max_text_tokens=6))
    assert needed_flops(short, PRETRAINING, torch.float32) < counted[0]
