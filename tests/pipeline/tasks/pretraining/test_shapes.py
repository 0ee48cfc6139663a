"""The shapes of a lane: few of them, and the numbers do not depend on which."""

from __future__ import annotations

import copy
import dataclasses
import random

import torch
import torch.nn.functional as F

from albef.config import ObjectiveConfig
from albef.inputs.batch import PretrainBatch
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.queue import FeatureQueue
from demo.pictures import read_pictures
from pipeline.data.collation import padded_length
from pipeline.tasks.pretraining.collate import Example, collate
from samples.captions import clean_caption
from tests.support.small_model import small_config

CONFIG = small_config(hidden_dropout=0.0, attention_dropout=0.0)
OBJECTIVE = ObjectiveConfig(queue_size=16)
TOKENIZER = AlbefTokenizer()


def lane(captions: list[str], *, step: int = 0, image: torch.Tensor | None = None) -> PretrainBatch:
    if image is None:
        image = torch.zeros(3, CONFIG.image_size, CONFIG.image_size)
    return collate(
        [Example(name=f"{step} {n}", image=image, caption=caption) for n, caption in enumerate(captions)],
        model=CONFIG,
        objective=OBJECTIVE,
        tokenizer=TOKENIZER,
        seed=0,
        epoch=0,
        step=step,
        lane=0,
    )


def losses_and_gradients(batch: PretrainBatch) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Of a student in float64, its teacher and a queue, always the same."""
    torch.manual_seed(0)
    student = AlbefForPretraining(CONFIG, OBJECTIVE).double().train()
    queue = FeatureQueue(OBJECTIVE.queue_size, CONFIG.embed_dim, seed=1, dtype=torch.float64)
    targets = MomentumTeacher(student, device="cpu").targets(batch)
    output = student(batch, targets, queue, torch.tensor(0.4, dtype=torch.float64))
    output.total.backward()
    gradients = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    return [output.itc.item(), output.itm.item(), output.mlm.item()], gradients


def test_lengths_are_multiples_of_eight_and_the_longest() -> None:
    """25 tokens at most have four lengths, 6 have one, and none is cut."""
    assert [padded_length(longest, 25) for longest in (1, 8, 9, 16, 17, 24, 25)] == [8, 8, 16, 16, 24, 24, 25]
    assert [padded_length(longest, 6) for longest in (1, 6)] == [6, 6]


def test_a_thousand_lanes_of_real_captions_have_few_shapes() -> None:
    """The demo's captions in lanes of 16: every length that there is."""
    captions = sorted({clean_caption(c) for picture in read_pictures() for c in picture.captions})
    drawn = random.Random(0)
    lanes = (lane(drawn.sample(captions, 16), step=step) for step in range(1000))
    shapes = {(one.input_ids.shape[1], len(one.mlm_positions)) for one in lanes}
    assert {length for length, _ in shapes} == {8, 16, 24, 25}
    assert {masked for _, masked in shapes} <= {16, 32, 48} and len(shapes) <= 9, shapes


def test_rows_that_fill_up_change_no_number() -> None:
    """Masked tokens padded to 16 and left as they are: equal losses and gradients."""
    filled = lane([f"a drawing of {thing}" for thing in ("a red dog", "two cats", "snow", "the sea", "it")])
    real = filled.mlm_labels >= 0
    assert 0 < real.sum() < len(real) == 16
    bare = dataclasses.replace(filled, mlm_positions=filled.mlm_positions[real], mlm_labels=filled.mlm_labels[real])
    (losses, gradients), (expected, expected_gradients) = losses_and_gradients(filled), losses_and_gradients(bare)
    assert all(abs(one - other) < 1e-12 for one, other in zip(losses, expected, strict=True))
    for name, gradient in gradients.items():
        assert (gradient - expected_gradients[name]).abs().max() < 1e-12, name


def test_padding_to_the_longest_allowed_text_changes_no_number() -> None:
    """A lane of 8 columns and the same with 25: equal masks; losses and gradients to float64's last digits."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(3, CONFIG.image_size, CONFIG.image_size, generator=generator)
    short = lane([f"a drawing of {thing}" for thing in ("a red dog", "two cats", "snow", "the sea", "it")], image=image)
    short.image = short.image * torch.rand(5, 1, 1, 1, generator=generator)  # no two alike
    assert short.input_ids.shape == (5, 8) and len(short.mlm_positions)
    full = copy.copy(short)
    padding = (0, OBJECTIVE.max_text_tokens - 8)
    full.input_ids = F.pad(short.input_ids, padding, value=CONFIG.pad_token_id)
    full.mlm_input_ids = F.pad(short.mlm_input_ids, padding, value=CONFIG.pad_token_id)
    full.attention_mask = F.pad(short.attention_mask, padding)
    full.mlm_positions = short.mlm_positions // 8 * OBJECTIVE.max_text_tokens + short.mlm_positions % 8
    (losses, gradients), (expected, expected_gradients) = losses_and_gradients(short), losses_and_gradients(full)
    assert all(abs(one - other) < 1e-12 for one, other in zip(losses, expected, strict=True))
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected_gradients[name]).abs().max() < 1e-12, name
