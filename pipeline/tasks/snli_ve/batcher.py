"""Entries of SNLI-VE to a micro-batch: augmented images, tokens, labels.

The augmentation of an entry depends on (seed, epoch, entry) only, not on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.inputs.snli_ve_batch import EntailmentBatch
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.sections import AugmentConfig
from pipeline.data.annotations.reader import AnnotatedSample
from pipeline.data.collation import padded_texts, stacked_images
from pipeline.data.seeds import Draws
from pipeline.data.transforms import training_image
from pipeline.tasks.snli_ve.annotations import sentence_of


@dataclass(frozen=True, slots=True)
class Example:
    """One augmented entry."""

    name: str
    image: Tensor
    """(3, H, W) uint8."""
    sentence: str
    """Cleaned."""
    label: int


@dataclass(frozen=True, kw_only=True)
class EntailmentBatcher:
    """Entries to a lane's `EntailmentBatch`; a `pipeline.task.Batcher`."""

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
        """One entry, its image augmented. Raises: BadSample for an image that cannot be used."""
        draws = Draws(seed, "augment", epoch, raw.name)
        image = training_image(raw.images[0], raw.name, size=self.image_size, config=self.augment, draws=draws)
        sentence = sentence_of(raw.row, self.max_words)
        return Example(name=raw.name, image=image, sentence=sentence, label=raw.row["label"])

    def batch(self, examples: Sequence[Example], *, seed: int, epoch: int, step: int, lane: int) -> EntailmentBatch:
        """B examples together; nothing is drawn between them."""
        sentences = [one.sentence for one in examples]
        input_ids, attention_mask = padded_texts(
            *self.tokenizer(sentences, max_length=self.max_text_tokens),
            most=self.max_text_tokens,
            pad=self.model.pad_token_id,
        )
        return EntailmentBatch(
            image=stacked_images([one.image for one in examples]),
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=torch.tensor([one.label for one in examples]),
            keys=[one.name for one in examples],
            captions=sentences,
        )
