"""Samples to a micro-batch of text assignment: one caption each, augmentation, tokens, the draws of other images.

Caption and augmentation of a sample are those of pretraining, and depend on (seed, epoch, sample) only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from albef.config import AlbefConfig
from albef.inputs.alignment_batch import AlignmentBatch
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.sections import AugmentConfig
from pipeline.data.collation import padded_texts, stacked_images
from pipeline.data.corpus.reader import RawSample
from pipeline.data.seeds import generator
from pipeline.tasks.pretraining.collate import Example, training_example


@dataclass(frozen=True, kw_only=True)
class AlignmentBatcher:
    """Samples to a lane's `AlignmentBatch`; a `pipeline.task.Batcher`."""

    model: AlbefConfig
    augment: AugmentConfig
    max_caption_words: int
    max_text_tokens: int
    tokenizer: AlbefTokenizer

    @property
    def image_size(self) -> int:
        """Pixels."""
        return self.model.image_size

    def example(self, raw: RawSample, *, seed: int, epoch: int) -> Example:
        """See `training_example`."""
        return training_example(
            raw,
            image_size=self.image_size,
            augment=self.augment,
            max_words=self.max_caption_words,
            seed=seed,
            epoch=epoch,
        )

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
