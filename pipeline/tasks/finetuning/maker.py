"""A task on annotation files for the commands, by what differs between such tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from albef.config import AlbefConfig
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.data.annotations.corpus import AnnotationCorpus, read_annotations
from pipeline.data.annotations.entries import Format
from pipeline.engine.distributed import World
from pipeline.task import Task
from pipeline.task_maker import TaskMaker
from pipeline.tasks.finetuning.distillation import bytes_beside
from pipeline.tasks.finetuning.starting_weights import check_start


def annotation_maker(
    *,
    form: Format,
    model: Callable[[AlbefConfig, Any], nn.Module],
    make: Callable[[Any, World, torch.dtype], Task],
    batcher: type,
    sketch: Callable[[Any, torch.dtype], Task],
    noise: Callable[[Any, int], Any],
    validation: Callable[[Any, World, AlbefTokenizer], object],
) -> TaskMaker:
    """The maker of a task with a momentum teacher.

    Args:
        form: of the entries that it trains on.
        model: the class that it trains, made of a shape and an objective.
        make, sketch, noise: as in `TaskMaker`.
        batcher: the class of its batcher.
        validation: opens a run's validation set. Raises: DataError.
    """

    def corpus(run: Any) -> AnnotationCorpus:
        return read_annotations(run.data.annotations, run.data.images, form)

    def checks(run: Any) -> list[Callable[[], object]]:
        alone = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
        return [
            lambda: check_start(run, lambda: model(run.model.shape, run.objective)),
            lambda: validation(run, alone, AlbefTokenizer()),
        ]

    return TaskMaker(
        corpus=corpus,
        make=make,
        batch_module=batcher.__module__,
        sketch=sketch,
        noise=noise,
        bytes_beside=bytes_beside,
        batch_lines=lambda run: [],
        checks=checks,
    )
