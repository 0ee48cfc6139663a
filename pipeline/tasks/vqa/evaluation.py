"""A trained model on a file of questions: the official accuracy, and the file for the server, each question once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from albef.errors import CheckpointError
from albef.trained.vqa import AlbefVqa
from pipeline.data.annotations.corpus import read_annotations
from pipeline.engine.distributed import World
from pipeline.run.training_data import compare_with_training
from pipeline.task import Progress
from pipeline.tasks.vqa.annotations import QUESTIONS, read_candidates
from pipeline.tasks.vqa.ranking import QuestionSet, answer_list, answer_questions
from samples.quote import quote

log = logging.getLogger(__name__)


def evaluate_vqa(
    model: Path,
    annotations: Path,
    images: Sequence[Path],
    answers: Path,
    *,
    k: int,
    world: World,
    dtype: torch.dtype,
    batch_size: int,
    num_workers: int | None,
    progress: Progress | None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Facts and metrics, and the answer to every question as the server takes them; the same on every rank.

    The accuracy is there if every question has the people's answers. Image size and tokenizer are the model folder's.

    Args:
        answers: the list of candidates; another one than the model's is refused.
        k: candidates of a question that are read whole; at most all.

    Raises: CheckpointError, DataError.
    """
    albef = AlbefVqa.from_pretrained(model, device=world.device).to(dtype)
    candidates = read_candidates(answers)
    if albef.answers_fingerprint is None:
        log.warning("the model names no answer list: nothing shows whether %s is its own", answers)
    elif candidates.fingerprint != albef.answers_fingerprint:
        raise CheckpointError(
            f"{quote(answers)} has the fingerprint {candidates.fingerprint}, the model's answer list "
            f"{albef.answers_fingerprint}",
            "give the list that the model was trained with as data.answers",
        )
    corpus = read_annotations(
        [str(annotations)], [str(root) for root in images], QUESTIONS, section="--annotations, data"
    )
    data = QuestionSet.of_corpus(corpus, model=albef.config, tokenizer=albef.tokenizer)
    chosen = answer_questions(
        albef.model,
        data,
        answer_list(candidates, albef.tokenizer, albef.config),
        k=k,
        world=world,
        batch_size=batch_size,
        num_workers=num_workers,
        progress=progress,
    )
    given = [candidates.answers[one] for one in chosen]
    facts: dict[str, Any] = {
        "num_entries": len(data),
        "entries_fingerprint": corpus.fingerprint(),
        "answers_fingerprint": candidates.fingerprint,
        "num_answers": len(candidates.answers),
        "k_test": min(k, len(candidates.answers)),
        "first_token_twice": albef.model.objective.first_token_twice,
        "image_size": albef.config.image_size,
        "trained_on": compare_with_training(albef.training_data, corpus.splits(), corpus.image_names(), world),
    }
    server = [{"question_id": number, "answer": one} for number, one in zip(data.numbers, given, strict=True)]
    return (data.metrics(given) if all(data.people) else {}) | facts, server
