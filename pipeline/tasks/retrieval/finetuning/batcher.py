"""Pairs to a micro-batch: augmented images, tokens, the numbers of the images, and the draws of the hard negatives.

The augmentation of a pair depends on (seed, epoch, pair) only, not on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.inputs.retrieval_batch import RetrievalBatch
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.sections import AugmentConfig
from pipeline.data.annotations.reader import AnnotatedSample
from pipeline.data.collation import padded_texts, stacked_images
from pipeline.data.seeds import Draws, generator
from pipeline.data.transforms import training_image
from samples.captions import clean_caption


@dataclass(frozen=True, slots=True)
class Example:
    """One augmented pair."""

    name: str
    image: Tensor
    """(3, H, W) uint8."""
    caption: str
    """Cleaned."""
    image_id: int
    """The number of its image."""


@dataclass(frozen=True, kw_only=True)
class RetrievalBatcher:
    """Pairs to a lane's `RetrievalBatch`; a `pipeline.task.Batcher`."""

    model: AlbefConfig
    augment: AugmentConfig
    max_words: int
    max_text_tokens: int
    tokenizer: AlbefTokenizer

    @property
    def image_size(self) -> int:
        """Pixels."""
        return self.model.image_size

    def example(self, raw: AnnotatedSample, *, seed: int, epoch: int) -> Example:
        """One pair, its image augmented. Raises: BadSample for an image that cannot be used."""
        draws = Draws(seed, "augment", epoch, raw.name)
        image = training_image(raw.images[0], raw.name, size=self.image_size, config=self.augment, draws=draws)
        caption = clean_caption(raw.row["caption"], max_words=self.max_words)
        return Example(name=raw.name, image=image, caption=caption, image_id=raw.row["image_id"])

    def batch(self, examples: Sequence[Example], *, seed: int, epoch: int, step: int, lane: int) -> RetrievalBatch:
        """B pairs together; hard negatives, a matter between them, are drawn by (seed, epoch, step, lane)."""
        captions = [one.caption for one in examples]
        input_ids, attention_mask = padded_texts(
            *self.tokenizer(captions, max_length=self.max_text_tokens),
            most=self.max_text_tokens,
            pad=self.model.pad_token_id,
        )
        negatives = generator(seed, "negatives", epoch, step, lane)
        return RetrievalBatch(
            image=stacked_images([one.image for one in examples]),
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_ids=torch.tensor([one.image_id for one in examples]),
            negative_draws=torch.rand(2, len(examples), generator=negatives, dtype=torch.float64),
            keys=[one.name for one in examples],
            captions=captions,
        )
