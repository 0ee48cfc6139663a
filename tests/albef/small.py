"""A model of a few thousand weights and batches for it, shared by the tests of the model and of the teacher."""

from __future__ import annotations

from typing import Any

import torch

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.batch import PretrainBatch
from albef.model import AlbefForPretraining
from albef.objective.masking import mask_tokens
from albef.objective.queue import FeatureQueue

CONFIG = AlbefConfig(
    image_size=32,
    patch_size=16,
    vision_width=24,
    vision_depth=2,
    vision_heads=3,
    vocab_size=60,
    text_width=16,
    text_depth=2,
    fusion_depth=2,
    text_heads=2,
    text_ffn_width=32,
    max_text_positions=16,
    embed_dim=8,
    pad_token_id=0,
    cls_token_id=2,
    mask_token_id=4,
)
LENGTHS = (9, 5, 7, 2, 8)
"""Tokens of each text of a batch."""


def make_student(*, seed: int = 0, dtype: torch.dtype = torch.float32, **objective: Any) -> AlbefForPretraining:
    """A student in eval mode with weights large enough that no two inputs look alike."""
    torch.manual_seed(seed)
    student = AlbefForPretraining(CONFIG, ObjectiveConfig(**({"queue_size": 8} | objective)))
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return student.to(dtype).eval()


def make_batch(*, size: int = 5, seed: int = 1, extra_padding: int = 0, probability: float = 0.4) -> PretrainBatch:
    """A batch of random images and texts of unequal lengths, masked."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([LENGTHS[i % len(LENGTHS)] for i in range(size)])
    longest = int(lengths.max())
    input_ids = torch.randint(5, CONFIG.vocab_size, (size, longest), generator=generator)
    input_ids[:, 0] = CONFIG.cls_token_id
    attention_mask = (torch.arange(longest) < lengths[:, None]).long()
    masked = mask_tokens(input_ids * attention_mask, config=CONFIG, probability=probability, generator=generator)
    image = torch.randn(size, 3, CONFIG.image_size, CONFIG.image_size, generator=generator)
    draws = torch.rand(2, size, generator=generator, dtype=torch.float64)
    pad = (0, extra_padding)
    row, column = masked.mlm_positions // longest, masked.mlm_positions % longest
    return PretrainBatch(
        image=image,
        input_ids=torch.nn.functional.pad(input_ids * attention_mask, pad),
        attention_mask=torch.nn.functional.pad(attention_mask, pad),
        mlm_input_ids=torch.nn.functional.pad(masked.mlm_input_ids, pad),
        mlm_positions=row * (longest + extra_padding) + column,
        mlm_labels=masked.mlm_labels,
        negative_draws=draws,
    )


def make_queue(dtype: torch.dtype = torch.float32) -> FeatureQueue:
    """A queue of 8 random rows."""
    return FeatureQueue(8, CONFIG.embed_dim, seed=2, dtype=dtype)
