"""Samples to a micro-batch of text assignment: one caption each, augmentation, tokens, the draws of other images.

Caption and augmentation of a sample are those of pretraining, and depend on (seed, epoch, sample) only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from albef.inputs.alignment_batch import AlignmentBatch
from pipeline.data.collation import padded_texts, stacked_images
from pipeline.data.seeds import generator
from pipeline.tasks.pretraining.collate import CaptionedBatcher, Example


@dataclass(frozen=True, kw_only=True)
class AlignmentBatcher(CaptionedBatcher):
    """Samples to a lane's `AlignmentBatch`; a `pipeline.task.Batcher`."""

    max_text_tokens: int

    def batch(self, examples: Sequence[Example], *, seed: int, epoch: int, step: int, lane: int) -> AlignmentBatch:
        """B samples together; each text's pair, a matter between them, is drawn by (seed, epoch, step, lane)."""
        captions = [one.caption for one in examples]
        input_ids, attention_mask = padded_texts(
            *self.tokenizer(captions, max_length=self.max_text_tokens),
            most=self.max_text_tokens,
            pad=self.model.pad_token_id,
        )
        pairs = generator(seed, "pairs", epoch, step, lane)
        return AlignmentBatch(
            image=stacked_images([one.image for one in examples]),
            input_ids=input_ids,
            attention_mask=attention_mask,
            draws=torch.rand(4, len(examples), generator=pairs, dtype=torch.float64),
            keys=[one.name for one in examples],
            captions=captions,
        )
