"""Retrieval for the commands: how a run and planning get the task, its data, and what would stop a start."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from albef.downstream.retrieval import AlbefForRetrieval
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import PairsRun
from pipeline.data.annotations.corpus import AnnotationCorpus, read_annotations
from pipeline.engine.distributed import World
from pipeline.task_maker import TaskMaker
from pipeline.tasks.finetuning.starting_weights import check_start
from pipeline.tasks.retrieval.finetuning.annotations import training_pairs
from pipeline.tasks.retrieval.finetuning.batcher import RetrievalBatcher
from pipeline.tasks.retrieval.finetuning.sketch import batch_lines, bytes_beside, noise, sketch
from pipeline.tasks.retrieval.finetuning.task import Retrieval


def maker_for(kind: type[Retrieval]) -> TaskMaker:
    """The maker of retrieval, or of a task that is trained like it."""
    return TaskMaker(
        corpus=partial(_corpus, kind),
        make=kind.of_run,
        batch_module=RetrievalBatcher.__module__,
        sketch=partial(sketch, kind),
        noise=noise,
        bytes_beside=bytes_beside,
        batch_lines=batch_lines,
        checks=partial(_checks, kind),
    )


def _corpus(kind: type[Retrieval], run: PairsRun) -> AnnotationCorpus:
    """The training pairs. Raises: DataError."""
    return training_pairs(read_annotations(run.data.annotations, run.data.images, kind.form))


def _checks(kind: type[Retrieval], run: PairsRun) -> list[Callable[[], object]]:
    """The starting weights and the validation set."""
    alone = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    return [
        lambda: check_start(run, lambda: AlbefForRetrieval(run.model.shape, run.objective)),
        lambda: kind.validator_of(run, alone, AlbefTokenizer()),
    ]


RETRIEVAL = maker_for(Retrieval)
