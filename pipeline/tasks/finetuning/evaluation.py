"""A trained classifier on an annotation file: accuracy, and the answer to every entry, each once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from albef.trained.entailment import AlbefEntailment
from albef.trained.nlvr2 import AlbefNlvr2
from pipeline.data.annotations.corpus import read_annotations
from pipeline.data.annotations.entries import Format
from pipeline.engine.distributed import World
from pipeline.run.training_data import compare_with_training
from pipeline.task import Progress
from pipeline.tasks.finetuning.classification import ClassificationSet, classify

MAX_WORDS = 30
"""As in training (paper's recipes)."""


def evaluate_classifier(
    kind: type[AlbefEntailment] | type[AlbefNlvr2],
    form: Format,
    *,
    text: Callable[[dict[str, Any], int], str],
    classes: Sequence[str],
    model: Path,
    annotations: Path,
    images: Sequence[Path],
    world: World,
    dtype: torch.dtype,
    batch_size: int,
    num_workers: int | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Metrics, the labels' counts and `answers`, on every rank; image size and tokenizer are the model folder's.

    Args:
        kind: the model's class.
        form: of the annotation file.
        text: the cleaned text of a row, cut to a number of words.
        classes: the labels' names.

    Raises: CheckpointError, DataError.
    """
    albef = kind.from_pretrained(model, device=world.device).to(dtype)
    corpus = read_annotations([str(annotations)], [str(root) for root in images], form, section="--annotations, data")
    data = ClassificationSet.of_corpus(
        corpus,
        text=lambda row: text(row, MAX_WORDS),
        classes=classes,
        model=albef.config,
        tokenizer=albef.tokenizer,
        max_text_tokens=albef.max_text_tokens,
    )
    answers = classify(
        albef.model.predict, data, world=world, batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    counts = torch.bincount(data.labels, minlength=len(classes)).tolist()
    return answers.metrics() | {
        "num_entries": len(data),
        "labels": dict(zip(classes, counts, strict=True)),
        "entries_fingerprint": corpus.fingerprint(),
        "trained_on": compare_with_training(albef.training_data, corpus.splits(), corpus.image_names(), world),
        "answers": {
            name: classes[predicted]
            for name, predicted in zip(corpus.names.to_pylist(), answers.predicted.tolist(), strict=True)
        },
    }
