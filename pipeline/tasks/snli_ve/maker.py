"""Visual entailment for the commands: how a run and planning get the task, its data, and what would stop a start."""

from __future__ import annotations

from collections.abc import Callable

import torch

from albef.downstream.snli_ve import AlbefForEntailment
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import EntailmentRun
from pipeline.data.annotations.corpus import AnnotationCorpus, read_annotations
from pipeline.engine.distributed import World
from pipeline.task_maker import TaskMaker
from pipeline.tasks.finetuning.distillation import bytes_beside
from pipeline.tasks.finetuning.starting_weights import check_start
from pipeline.tasks.snli_ve.annotations import FORMAT
from pipeline.tasks.snli_ve.batcher import EntailmentBatcher
from pipeline.tasks.snli_ve.sketch import noise, sketch
from pipeline.tasks.snli_ve.task import Entailment, validation_of


def corpus(run: EntailmentRun) -> AnnotationCorpus:
    """The training entries. Raises: DataError."""
    return read_annotations(run.data.annotations, run.data.images, FORMAT)


def checks(run: EntailmentRun) -> list[Callable[[], object]]:
    """The starting weights and the validation set."""
    alone = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    return [
        lambda: check_start(run, lambda: AlbefForEntailment(run.model.shape, run.objective)),
        lambda: validation_of(run, alone, AlbefTokenizer()),
    ]


ENTAILMENT = TaskMaker(
    corpus=corpus,
    make=Entailment.of_run,
    batch_module=EntailmentBatcher.__module__,
    sketch=sketch,
    noise=noise,
    bytes_beside=bytes_beside,
    batch_lines=lambda run: [],
    checks=checks,
)
