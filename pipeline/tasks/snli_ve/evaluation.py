"""A trained model on an annotation file of SNLI-VE: accuracy, and the answer to every entry, each once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from albef.inputs.snli_ve_batch import CLASSES
from albef.trained.entailment import AlbefEntailment
from pipeline.data.annotations.corpus import read_annotations
from pipeline.engine.distributed import World
from pipeline.task import Progress
from pipeline.tasks.finetuning.classification import ClassificationSet, classify
from pipeline.tasks.snli_ve.annotations import FORMAT, sentence_of

MAX_WORDS = 30
"""As in training (paper's recipe)."""


def evaluate_entailment(
    model: Path,
    annotations: Path,
    images: Sequence[Path],
    *,
    world: World,
    dtype: torch.dtype,
    batch_size: int,
    num_workers: int | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Metrics, the labels' counts and `answers`, on every rank; image size and tokenizer are the model folder's.

    Raises: CheckpointError, DataError.
    """
    albef = AlbefEntailment.from_pretrained(model, device=world.device).to(dtype)
    corpus = read_annotations([str(annotations)], [str(root) for root in images], FORMAT, section="--annotations, data")
    data = ClassificationSet.of_corpus(
        corpus,
        text=partial(sentence_of, max_words=MAX_WORDS),
        classes=CLASSES,
        model=albef.config,
        tokenizer=albef.tokenizer,
        max_text_tokens=albef.max_text_tokens,
    )
    answers = classify(
        albef.model.predict, data, world=world, batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    counts = torch.bincount(data.labels, minlength=len(CLASSES)).tolist()
    return answers.metrics() | {
        "num_entries": len(data),
        "labels": dict(zip(CLASSES, counts, strict=True)),
        "entries_fingerprint": corpus.fingerprint(),
        "answers": {
            name: CLASSES[predicted]
            for name, predicted in zip(corpus.names.to_pylist(), answers.predicted.tolist(), strict=True)
        },
    }
