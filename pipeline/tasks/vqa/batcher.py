"""Questions with their answers to a micro-batch: augmented images, tokens, weights.

The augmentation of an entry depends on (seed, epoch, entry) only, not on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.inputs.tokenizer import AlbefTokenizer
from albef.inputs.vqa_batch import VqaBatch, decoder_inputs, whole_answers
from pipeline.config.sections import AugmentConfig
from pipeline.data.annotations.reader import AnnotatedSample
from pipeline.data.collation import padded_texts, stacked_images
from pipeline.data.seeds import Draws
from pipeline.data.transforms import training_image
from pipeline.tasks.vqa.annotations import question_of


@dataclass(frozen=True, slots=True)
class Example:
    """One augmented entry."""

    name: str
    image: Tensor
    """(3, H, W) uint8."""
    question: str
    """Cleaned."""
    answers: list[str]
    weights: list[float]


@dataclass(frozen=True, kw_only=True)
class VqaBatcher:
    """Entries to a lane's `VqaBatch`; a `pipeline.task.Batcher`."""

    model: AlbefConfig
    augment: AugmentConfig
    max_words: int
    max_text_tokens: int
    max_answer_tokens: int
    tokenizer: AlbefTokenizer

    @property
    def image_size(self) -> int:
        """Pixels."""
        return self.model.image_size

    def example(self, raw: AnnotatedSample, *, seed: int, epoch: int) -> Example:
        """One entry, its image augmented. Raises: BadSample for an image that cannot be used."""
        draws = Draws(seed, "augment", epoch, raw.name)
        image = training_image(raw.images[0], raw.name, size=self.image_size, config=self.augment, draws=draws)
        question = question_of(raw.row, self.max_words)
        return Example(raw.name, image, question, raw.row["answers"], raw.row["weights"])

    def batch(self, examples: Sequence[Example], *, seed: int, epoch: int, step: int, lane: int) -> VqaBatch:
        """B examples together; nothing is drawn between them."""
        questions = [one.question for one in examples]
        question_ids, question_mask = padded_texts(
            *self.tokenizer(questions, max_length=self.max_text_tokens),
            most=self.max_text_tokens,
            pad=self.model.pad_token_id,
        )
        answers = [answer for one in examples for answer in one.answers]
        inputs = decoder_inputs(*whole_answers(answers, self.tokenizer, max_tokens=self.max_answer_tokens))
        counts = torch.tensor([len(one.answers) for one in examples])
        return VqaBatch(
            image=stacked_images([one.image for one in examples]),
            question_ids=question_ids,
            question_mask=question_mask,
            answer_ids=inputs.ids,
            answer_question=torch.arange(len(examples)).repeat_interleave(counts),
            answer_weights=torch.tensor([weight for one in examples for weight in one.weights]),
            answer_positions=inputs.positions,
            answer_labels=inputs.labels,
            keys=[one.name for one in examples],
            captions=questions,
        )
