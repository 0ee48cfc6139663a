"""Entries of NLVR2 to a micro-batch: two augmented images each, tokens, labels.

The augmentation of an image depends on (seed, epoch, entry, which of the two) only, not on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.inputs.nlvr2_batch import Nlvr2Batch
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.sections import AugmentConfig
from pipeline.data.annotations.reader import AnnotatedSample
from pipeline.data.collation import padded_texts, stacked_images
from pipeline.data.seeds import Draws
from pipeline.data.transforms import training_image
from pipeline.tasks.nlvr2.annotations import sentence_of


@dataclass(frozen=True, slots=True)
class Example:
    """One augmented entry."""

    name: str
    first: Tensor
    """(3, H, W) uint8."""
    second: Tensor
    """(3, H, W) uint8."""
    sentence: str
    """Cleaned."""
    label: int


@dataclass(frozen=True, kw_only=True)
class Nlvr2Batcher:
    """Entries to a lane's `Nlvr2Batch`; a `pipeline.task.Batcher`."""

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
        """One entry, each image augmented by itself. Raises: BadSample for an image that cannot be used."""
        first, second = (
            training_image(
                image,
                raw.name,
                size=self.image_size,
                config=self.augment,
                draws=Draws(seed, "augment", epoch, raw.name, which),
            )
            for which, image in enumerate(raw.images)
        )
        sentence = sentence_of(raw.row, self.max_words)
        return Example(name=raw.name, first=first, second=second, sentence=sentence, label=raw.row["label"])

    def batch(self, examples: Sequence[Example], *, seed: int, epoch: int, step: int, lane: int) -> Nlvr2Batch:
        """B examples together; nothing is drawn between them."""
        sentences = [one.sentence for one in examples]
        input_ids, attention_mask = padded_texts(
            *self.tokenizer(sentences, max_length=self.max_text_tokens),
            most=self.max_text_tokens,
            pad=self.model.pad_token_id,
        )
        return Nlvr2Batch(
            image=stacked_images([one.first for one in examples] + [one.second for one in examples]),
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=torch.tensor([one.label for one in examples]),
            keys=[one.name for one in examples],
            captions=sentences,
        )
