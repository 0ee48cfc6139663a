"""The answers of a model to questions, ranked among candidates: exact on any number of ranks, each question once.

The work is divided in blocks of fixed size and order, so a block is computed with the same padding, and so to the same
bits, on any number of ranks; nothing is padded with questions that count twice.
"""

# N questions, B questions of a block, L question tokens, C candidates

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.downstream.vqa import AlbefForVqa, AnswerList
from albef.evaluation_mode import evaluating
from albef.inputs.tokenizer import AlbefTokenizer
from albef.inputs.vqa_batch import whole_answers
from albef.trained.vqa import QUESTION_WORDS
from pipeline.data.annotations.corpus import AnnotationCorpus
from pipeline.data.image_blocks import loaded_blocks
from pipeline.engine.distributed import World
from pipeline.task import Progress
from pipeline.tasks.finetuning.classification import warn_at_majority
from pipeline.tasks.finetuning.entry_image import entry_image
from pipeline.tasks.retrieval.validation import random_state_restored
from pipeline.tasks.vqa.accuracy import accuracies, most_frequent
from pipeline.tasks.vqa.annotations import Candidates, question_of


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Questions to answer, on the host; images are loaded when they are needed."""

    corpus: AnnotationCorpus
    image_size: int
    """Pixels."""
    question_ids: Tensor
    """(N, L)"""
    question_mask: Tensor
    """(N, L)"""
    numbers: list[int]
    """(N,) the questions' `question_id`."""
    people: list[list[str]]
    """(N,) the people's answers; empty where they are not known."""
    types: list[str]
    """(N,) the types of the answers; empty where they are not known."""

    @classmethod
    def of_corpus(cls, corpus: AnnotationCorpus, *, model: AlbefConfig, tokenizer: AlbefTokenizer) -> QuestionSet:
        """Every entry of annotation files in the format `QUESTIONS`. Questions are not cut to those of training."""
        rows = [ref.fields()[1] for ref in corpus.locate(np.arange(corpus.num_samples))]
        ids, mask = tokenizer([question_of(row, QUESTION_WORDS) for row in rows], max_length=model.max_text_positions)
        return cls(
            corpus=corpus,
            image_size=model.image_size,
            question_ids=ids,
            question_mask=mask,
            numbers=[row["question_id"] for row in rows],
            people=[row["people"] for row in rows],
            types=[row["answer_type"] for row in rows],
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def image(self, index: int) -> Tensor:
        """(3, H, W) normalised, of question `index`. Raises: DataError: an evaluation needs all of its data."""
        return entry_image(self.corpus, index, self.image_size)

    def metrics(self, answers: Sequence[str]) -> dict[str, float]:
        """Accuracies in percent, and as `majority` that of always giving the most frequent answer."""
        values = accuracies(answers, self.people, self.types)
        return values | {"majority": accuracies([self.majority] * len(self), self.people, self.types)["accuracy"]}

    @property
    def majority(self) -> str:
        """The most frequent of the people's answers."""
        return most_frequent(self.people)


def answer_list(candidates: Candidates, tokenizer: AlbefTokenizer, model: AlbefConfig) -> AnswerList:
    """The candidates as the model ranks them, on the CPU."""
    return AnswerList(*whole_answers(candidates.answers, tokenizer, max_tokens=model.max_text_positions))


@torch.no_grad()
def answer_questions(
    model: AlbefForVqa,
    data: QuestionSet,
    answers: AnswerList,
    *,
    k: int,
    world: World,
    batch_size: int,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> list[int]:
    """The likeliest candidate of every question (N,); a collective, to be called on all ranks with equal arguments.

    Args:
        model: on `world.device`, in eval mode.
        answers: the candidates, on any device.
        k: candidates of a question that are read whole; at most all.
        batch_size: questions of a block.
        num_workers: threads that load images.
        progress: called after each block of this rank.

    Raises: DataError when an image cannot be read.
    """
    answers = answers.to(world.device)
    blocks = [range(start, min(start + batch_size, len(data))) for start in range(0, len(data), batch_size)]
    mine = blocks[world.rank :: world.size]
    found: dict[int, list[int]] = {}
    for number, (block, images) in enumerate(loaded_blocks(data.image, mine, num_workers)):
        rows = slice(block.start, block.stop)
        length = int(data.question_mask[rows].sum(1).max())  # no longer than the longest of the block
        ids, mask = (tensor[rows, :length].to(world.device) for tensor in (data.question_ids, data.question_mask))
        ranked = model.rank(images.to(world.device), ids, mask, answers, k)
        found[block.start] = ranked.candidates[:, 0].tolist()
        if progress is not None:
            progress("answer", number + 1, len(mine))
    by_start = {start: chosen for of_rank in world.gather_objects(found) for start, chosen in of_rank.items()}
    chosen = [one for start in sorted(by_start) for one in by_start[start]]
    assert len(chosen) == len(data), (len(chosen), len(data))
    return chosen


@dataclass(frozen=True, kw_only=True)
class VqaValidation:
    """Scores a model on its validation questions during training; it changes nothing of the training itself."""

    data: QuestionSet
    candidates: Candidates
    answers: AnswerList
    k: int
    world: World
    batch_size: int
    num_workers: int
    majority_after_steps: int
    """From this step on, warn when the model is no better than the most frequent answer; 0 never."""

    def run(self, model: AlbefForVqa, *, steps_done: int, progress: Progress) -> dict[str, float]:
        """Accuracies under `val/`, the same on every rank; a collective.

        Args:
            model: in any mode and precision. Its modes and every random generator are restored afterwards.
            steps_done: optimizer steps taken so far.
        """
        with evaluating(model), random_state_restored(self.world.device):
            chosen = answer_questions(
                model,
                self.data,
                self.answers,
                k=self.k,
                world=self.world,
                batch_size=self.batch_size,
                num_workers=self.num_workers,
                progress=progress,
            )
        values = self.data.metrics([self.candidates.answers[one] for one in chosen])
        if self.world.is_main and self.majority_after_steps:
            warn_at_majority(values, self.data.majority, steps_done, after=self.majority_after_steps)
        return {f"val/{name}": value for name, value in values.items()}
