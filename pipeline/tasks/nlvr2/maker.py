"""NLVR2 for the commands: how a run and planning get the task, its data, and what would stop a start."""

from __future__ import annotations

from collections.abc import Callable

import torch

from albef.downstream.nlvr2 import AlbefForNlvr2
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import Nlvr2Run
from pipeline.data.annotations.corpus import AnnotationCorpus, read_annotations
from pipeline.engine.distributed import World
from pipeline.task_maker import TaskMaker
from pipeline.tasks.finetuning.distillation import bytes_beside
from pipeline.tasks.finetuning.starting_weights import check_start
from pipeline.tasks.nlvr2.annotations import FORMAT
from pipeline.tasks.nlvr2.batcher import Nlvr2Batcher
from pipeline.tasks.nlvr2.sketch import noise, sketch
from pipeline.tasks.nlvr2.task import Nlvr2, validation_of


def corpus(run: Nlvr2Run) -> AnnotationCorpus:
    """The training entries. Raises: DataError."""
    return read_annotations(run.data.annotations, run.data.images, FORMAT)


def checks(run: Nlvr2Run) -> list[Callable[[], object]]:
    """The starting weights and the validation set."""
    alone = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    return [
        lambda: check_start(run, lambda: AlbefForNlvr2(run.model.shape, run.objective)),
        lambda: validation_of(run, alone, AlbefTokenizer()),
    ]


NLVR2 = TaskMaker(
    corpus=corpus,
    make=Nlvr2.of_run,
    batch_module=Nlvr2Batcher.__module__,
    sketch=sketch,
    noise=noise,
    bytes_beside=bytes_beside,
    batch_lines=lambda run: [],
    checks=checks,
)
