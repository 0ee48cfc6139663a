"""The answers of a classifier of images and texts: exact on any number of ranks, each entry once.

The work is divided in blocks of fixed size and order, so a block is computed with the same padding, and so to the same
bits, on any number of ranks; nothing is padded with entries that count twice.
"""

# N entries, B entries of a block, K images of an entry, L text tokens, C classes

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.evaluation_mode import evaluating
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import ClassifierRun
from pipeline.data.annotations.corpus import AnnotationCorpus, read_annotations
from pipeline.data.annotations.entries import Format
from pipeline.data.image_blocks import loaded_blocks
from pipeline.engine.distributed import World
from pipeline.task import Progress
from pipeline.tasks.finetuning.entry_image import entry_images
from pipeline.tasks.retrieval.validation import random_state_restored

log = logging.getLogger(__name__)

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images (KB, 3, H, W), normalised, and the texts' (B, L) ids and mask to logits (B, C).

With K images an entry, the first images of all B come first, then the second ones.
"""


@dataclass(frozen=True, kw_only=True)
class ClassificationSet:
    """Entries to classify, on the host; images are loaded when they are needed."""

    corpus: AnnotationCorpus
    image_size: int
    """Pixels."""
    input_ids: Tensor
    """(N, L)"""
    attention_mask: Tensor
    """(N, L)"""
    labels: Tensor
    """(N,) int64."""
    classes: Sequence[str]
    """(C,) the classes' names, by label."""

    @classmethod
    def of_corpus(
        cls,
        corpus: AnnotationCorpus,
        *,
        text: Callable[[dict[str, Any]], str],
        classes: Sequence[str],
        model: AlbefConfig,
        tokenizer: AlbefTokenizer,
        max_text_tokens: int,
    ) -> ClassificationSet:
        """Every entry of annotation files, whose rows have the label as `label`.

        Args:
            text: the cleaned text of a row.
        """
        rows = [ref.fields()[1] for ref in corpus.locate(np.arange(corpus.num_samples))]
        input_ids, attention_mask = tokenizer(
            [text(row) for row in rows], max_length=min(max_text_tokens, model.max_text_positions)
        )
        return cls(
            corpus=corpus,
            image_size=model.image_size,
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=torch.tensor([int(row["label"]) for row in rows]),
            classes=classes,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, index: int) -> Tensor:
        """(K, 3, H, W) normalised, of entry `index`. Raises: DataError: an evaluation needs all of its data."""
        return entry_images(self.corpus, index, self.image_size)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model answered, in the order of the entries."""

    predicted: Tensor
    """(N,) int64, on the CPU."""
    labels: Tensor
    """(N,)"""
    classes: Sequence[str]

    def metrics(self) -> dict[str, float]:
        """Accuracy in percent, that of each class, and that of always answering the most frequent class."""
        right = self.predicted == self.labels
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        values = {"accuracy": 100.0 * right.double().mean().item(), "majority": 100.0 * int(counts.max()) / len(right)}
        for label, name in enumerate(self.classes):
            if counts[label]:
                values[f"accuracy_{name}"] = 100.0 * right[self.labels == label].double().mean().item()
        return values

    @property
    def majority_class(self) -> str:
        """The most frequent class of the entries."""
        return self.classes[Counter(self.labels.tolist()).most_common(1)[0][0]]


@torch.no_grad()
def classify(
    predict: Predict,
    data: ClassificationSet,
    *,
    world: World,
    batch_size: int,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Answers:
    """Classify every entry; a collective, to be called on all ranks with equal arguments.

    Args:
        predict: of a model on `world.device`, in eval mode.
        batch_size: entries of a block.
        num_workers: threads that load images.
        progress: called after each block of this rank.

    Raises: DataError when an image cannot be read.
    """
    blocks = [range(start, min(start + batch_size, len(data))) for start in range(0, len(data), batch_size)]
    mine = blocks[world.rank :: world.size]
    answers: dict[int, list[int]] = {}
    for number, (block, images) in enumerate(loaded_blocks(data.images, mine, num_workers)):
        rows = slice(block.start, block.stop)
        length = int(data.attention_mask[rows].sum(1).max())  # no longer than the longest of the block
        ids, mask = (tensor[rows, :length].to(world.device) for tensor in (data.input_ids, data.attention_mask))
        pixels = images.transpose(0, 1).flatten(0, 1).to(world.device)  # (B, K, 3, H, W) to (KB, 3, H, W)
        answers[block.start] = predict(pixels, ids, mask).argmax(dim=1).tolist()
        if progress is not None:
            progress("classify", number + 1, len(mine))
    by_start = {start: found for of_rank in world.gather_objects(answers) for start, found in of_rank.items()}
    predicted = torch.tensor([label for start in sorted(by_start) for label in by_start[start]])
    assert len(predicted) == len(data), (len(predicted), len(data))
    return Answers(predicted=predicted, labels=data.labels, classes=data.classes)


class ClassifierValidation:
    """Scores a classifier on its validation entries during training; it changes nothing of the training itself.

    Args:
        majority_after_steps: from this step on, warn when the model is no better than the most frequent class; 0 never.
    """

    def __init__(
        self,
        data: ClassificationSet,
        *,
        world: World,
        batch_size: int,
        num_workers: int,
        majority_after_steps: int,
    ) -> None:
        self.data, self.world = data, world
        self._batch_size, self._num_workers = batch_size, num_workers
        self._majority_after_steps = majority_after_steps

    def run(self, model: nn.Module, predict: Predict, *, steps_done: int, progress: Progress) -> dict[str, float]:
        """Accuracies under `val/`, the same on every rank; a collective.

        Args:
            model: in any mode and precision. Its modes and every random generator are restored afterwards.
            predict: the model's.
            steps_done: optimizer steps taken so far.
        """
        with evaluating(model), random_state_restored(self.world.device):
            answers = classify(
                predict,
                self.data,
                world=self.world,
                batch_size=self._batch_size,
                num_workers=self._num_workers,
                progress=progress,
            )
        values = answers.metrics()
        if self.world.is_main and self._majority_after_steps:
            warn_at_majority(values, answers.majority_class, steps_done, after=self._majority_after_steps)
        return {f"val/{name}": value for name, value in values.items()}


def warn_at_majority(values: Mapping[str, float], majority: str, steps_done: int, *, after: int) -> None:
    """Log that a model is no better than one that always gives the most frequent answer.

    Args:
        values: `accuracy` and `majority`, percent.
        majority: that answer.
        after: the step from which on this is worth a warning.
    """
    if steps_done >= after and values["accuracy"] <= values["majority"]:
        log.warning(
            "after %d steps the model is right in %.2f%%, and always answering %s would be in %.2f%%: were its "
            "starting weights loaded, and is the learning rate right?",
            steps_done,
            values["accuracy"],
            majority,
            values["majority"],
        )


def read_validation(
    run: ClassifierRun,
    form: Format,
    *,
    text: Callable[[dict[str, Any]], str],
    classes: Sequence[str],
    world: World,
    tokenizer: AlbefTokenizer,
) -> ClassifierValidation | None:
    """The validation of a run; None without annotations.

    Args:
        form: of its files.
        text: the cleaned text of a row.

    Raises: DataError.
    """
    config = run.validation
    if not config.annotations:
        return None
    corpus = read_annotations(
        config.annotations, config.images or run.data.images, form, section="validation" if config.images else "data"
    )
    data = ClassificationSet.of_corpus(
        corpus,
        text=text,
        classes=classes,
        model=run.model.shape,
        tokenizer=tokenizer,
        max_text_tokens=run.objective.max_text_tokens,
    )
    return ClassifierValidation(
        data,
        world=world,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        majority_after_steps=config.majority_after_steps,
    )
