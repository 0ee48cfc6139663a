"""VQA for the commands: how a run and planning get the task, its data, and what would stop a start."""

from __future__ import annotations

from collections.abc import Callable

import torch

from albef.downstream.vqa import AlbefForVqa
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import VqaRun
from pipeline.data.annotations.corpus import AnnotationCorpus, read_annotations
from pipeline.engine.distributed import World
from pipeline.task_maker import TaskMaker
from pipeline.tasks.finetuning.distillation import bytes_beside
from pipeline.tasks.finetuning.starting_weights import check_start
from pipeline.tasks.vqa.annotations import TRAINING, read_candidates
from pipeline.tasks.vqa.batcher import VqaBatcher
from pipeline.tasks.vqa.sketch import noise, sketch
from pipeline.tasks.vqa.task import Vqa, validation_of


def corpus(run: VqaRun) -> AnnotationCorpus:
    """The training entries. Raises: DataError."""
    return read_annotations(run.data.annotations, run.data.images, TRAINING)


def checks(run: VqaRun) -> list[Callable[[], object]]:
    """The starting weights, the candidates and the validation questions."""
    return [
        lambda: check_start(run, lambda: AlbefForVqa(run.model.shape, run.objective)),
        lambda: _questions(run),
    ]


def _questions(run: VqaRun) -> None:
    alone = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    if run.data.answers is not None:
        validation_of(run, alone, AlbefTokenizer(), read_candidates(run.data.answers))


VQA = TaskMaker(
    corpus=corpus,
    make=Vqa.of_run,
    batch_module=VqaBatcher.__module__,
    sketch=sketch,
    noise=noise,
    bytes_beside=bytes_beside,
    batch_lines=lambda run: [],
    checks=checks,
)
