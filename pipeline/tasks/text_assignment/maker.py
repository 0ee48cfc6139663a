"""Text assignment for the commands: how a run and planning get the task, its data, and what would stop a start."""

from __future__ import annotations

from collections.abc import Callable

from albef.downstream.alignment import AlbefForAlignment
from pipeline.config.run_config import AlignmentRun
from pipeline.task_maker import TaskMaker
from pipeline.tasks.finetuning.starting_weights import check_start
from pipeline.tasks.pretraining.readiness import corpus
from pipeline.tasks.text_assignment.batcher import AlignmentBatcher
from pipeline.tasks.text_assignment.sketch import noise, sketch
from pipeline.tasks.text_assignment.task import Alignment


def checks(run: AlignmentRun) -> list[Callable[[], object]]:
    """The starting weights."""
    return [lambda: check_start(run, lambda: AlbefForAlignment(run.model.shape))]


ALIGNMENT = TaskMaker(
    corpus=corpus,
    make=Alignment.of_run,
    batch_module=AlignmentBatcher.__module__,
    sketch=sketch,
    noise=noise,
    bytes_beside=lambda sketch: {},
    batch_lines=lambda run: [],
    checks=checks,
)
