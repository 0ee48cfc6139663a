"""Samples to a micro-batch: one caption each, augmentation, tokens, mask, and the draws of the hard negatives.

Caption, augmentation and mask of a sample depend on (seed, epoch, sample) only, not on its batch. Texts are padded to
one of a few lengths and masked tokens to one of a few counts, which no loss or gradient depends on, so that a compiled
step sees few shapes.
"""

# B samples, L text tokens, N masked tokens

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.batch import PretrainBatch
from albef.inputs.tokenizer import AlbefTokenizer
from albef.kernels.mlm import IGNORED
from albef.objective.masking import mask_tokens
from pipeline.config.sections import AugmentConfig
from pipeline.data.collation import padded_texts, stacked_images
from pipeline.data.corpus.reader import BadSample, RawSample
from pipeline.data.seeds import Draws, derive, generator, uniforms
from pipeline.data.transforms import training_image
from samples.captions import clean_caption
from samples.quote import quote
from samples.record import usable_captions

COUNT_STEP = 16
"""Least step of the number of masked tokens. Rows that only fill up have position 0 and the label IGNORED."""


@dataclass(frozen=True, slots=True)
class Example:
    """One augmented sample."""

    name: str
    image: Tensor
    """(3, H, W) uint8."""
    caption: str
    """Cleaned."""


@dataclass(frozen=True, kw_only=True)
class CaptionedBatcher:
    """Samples of shards to examples of one image and one caption; each task batches them in its own way."""

    model: AlbefConfig
    augment: AugmentConfig
    max_caption_words: int
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


@dataclass(frozen=True, kw_only=True)
class PretrainBatcher(CaptionedBatcher):
    """Samples to a lane's `PretrainBatch`; a `pipeline.task.Batcher`."""

    objective: ObjectiveConfig

    def batch(self, examples: Sequence[Example], *, seed: int, epoch: int, step: int, lane: int) -> PretrainBatch:
        """See `collate`."""
        return collate(
            examples,
            model=self.model,
            objective=self.objective,
            tokenizer=self.tokenizer,
            seed=seed,
            epoch=epoch,
            step=step,
            lane=lane,
        )


def training_example(
    raw: RawSample, *, image_size: int, augment: AugmentConfig, max_words: int, seed: int, epoch: int
) -> Example:
    """Draw a caption and augment the image: a pure function of the sample, the seed and the epoch.

    The caption is drawn uniformly among the usable ones.

    Raises: BadSample `caption_empty` when there is none, or the image's reasons.
    """
    usable = usable_captions(raw.captions)
    if not usable:
        raise BadSample("caption_empty", f"{raw.name}: nothing is left of {quote(raw.captions[0])} after cleaning")
    caption = clean_caption(usable[derive(seed, "caption", epoch, raw.name) % len(usable)], max_words=max_words)
    draws = Draws(seed, "augment", epoch, raw.name)
    image = training_image(raw.jpg, raw.name, size=image_size, config=augment, draws=draws)
    return Example(name=raw.name, image=image, caption=caption)


def collate(
    examples: Sequence[Example],
    *,
    model: AlbefConfig,
    objective: ObjectiveConfig,
    tokenizer: AlbefTokenizer,
    seed: int,
    epoch: int,
    step: int,
    lane: int,
) -> PretrainBatch:
    """Put B examples together; hard negatives, a matter between them, are drawn by (seed, epoch, step, lane)."""
    input_ids, attention_mask = tokenizer([one.caption for one in examples], max_length=objective.max_text_tokens)
    input_ids, attention_mask = padded_texts(
        input_ids, attention_mask, most=objective.max_text_tokens, pad=model.pad_token_id
    )
    masked = mask_tokens(
        input_ids,
        config=model,
        probability=objective.mlm_probability,
        draws=mask_draws([one.name for one in examples], input_ids.shape[1], seed=seed, epoch=epoch),
    )
    filling = (0, padded_count(len(masked.mlm_positions), len(examples)) - len(masked.mlm_positions))
    negatives = generator(seed, "negatives", epoch, step, lane)
    return PretrainBatch(
        image=stacked_images([one.image for one in examples]),
        input_ids=input_ids,
        attention_mask=attention_mask,
        mlm_input_ids=masked.mlm_input_ids,
        mlm_positions=F.pad(masked.mlm_positions, filling),
        mlm_labels=F.pad(masked.mlm_labels, filling, value=IGNORED),
        negative_draws=torch.rand(2, len(examples), generator=negatives, dtype=torch.float64),
        keys=[one.name for one in examples],
        captions=[one.caption for one in examples],
    )


def padded_count(num_masked: int, size: int) -> int:
    """The N of a micro-batch of `size` samples: a multiple of 16, or of half the size where that is more; never 0.

    So most lanes have one of three or four N; the MLM head, where rows are added, is a thousandth of a step.
    """
    step = max(COUNT_STEP, size // 2)
    return max(1, -(-num_masked // step)) * step


def mask_draws(names: Sequence[str], length: int, *, seed: int, epoch: int) -> Tensor:
    """(B, L, 3) float64: what `mask_tokens` draws for each token of the samples `names`, padded to `length` tokens.

    Token l of a sample has draws 3l .. 3l+2 of its own stream, so the length of its neighbours does not matter either.
    """
    keys = np.array([derive(seed, "mask", epoch, name) for name in names], dtype=np.uint64)
    return torch.from_numpy(uniforms(keys, 3 * length).reshape(len(names), length, 3))
