"""NLVR2 as a task: student, teacher and validation of a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from albef.downstream.nlvr2 import AlbefForNlvr2, Nlvr2Teacher
from albef.inputs.nlvr2_batch import CLASSES
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import Nlvr2Run
from pipeline.engine.distributed import World
from pipeline.engine.new_student import new_student
from pipeline.tasks.finetuning.classification import ClassifierValidation, read_validation
from pipeline.tasks.finetuning.distillation import DistilledClassifier
from pipeline.tasks.finetuning.starting_weights import start_student, start_teacher
from pipeline.tasks.nlvr2.annotations import FORMAT, sentence_of
from pipeline.tasks.nlvr2.batcher import Nlvr2Batcher


@dataclass(kw_only=True)
class Nlvr2(DistilledClassifier):
    """The parts of fine-tuning on NLVR2. A `pipeline.task.Task`."""

    name: ClassVar[str] = Nlvr2Run.task

    @classmethod
    def of_run(cls, run: Nlvr2Run, world: World, compute_dtype: torch.dtype) -> Nlvr2:
        """Student and teacher of a run, equal on all ranks; the validation set is opened.

        Args:
            compute_dtype: of the teacher's forward, as the engine will have the student's.

        Raises: CheckpointError for starting weights, DataError for validation data that cannot be read, ConfigError for
            kernels that cannot run here.
        """
        tokenizer = AlbefTokenizer()
        student = new_student(lambda: AlbefForNlvr2(run.model.shape, run.objective), run, world)
        new_teacher = partial(Nlvr2Teacher, student, device=world.device, compute_dtype=compute_dtype)
        distills, too_early = run.objective.distill, run.objective.teacher_before_load
        teacher = new_teacher() if distills and too_early else None
        source = start_student(student, run)
        student.to(world.device).train()
        if distills and not too_early:
            teacher = new_teacher()  # before the engine casts the weights to bf16: the teacher's stay fp32
        start_teacher(teacher, source)
        return cls(
            model=student,
            teacher=teacher,
            batcher=batcher_of(run, tokenizer),
            alpha_ramp_epochs=run.schedule.alpha_ramp_epochs,
            validation=validation_of(run, world, tokenizer),
        ).compiled_if(run)


def batcher_of(run: Nlvr2Run, tokenizer: AlbefTokenizer) -> Nlvr2Batcher:
    """The batcher of a run."""
    return Nlvr2Batcher(
        model=run.model.shape,
        augment=run.data.augment,
        max_words=run.data.max_words,
        max_text_tokens=run.objective.max_text_tokens,
        tokenizer=tokenizer,
    )


def validation_of(run: Nlvr2Run, world: World, tokenizer: AlbefTokenizer) -> ClassifierValidation | None:
    """The validation of a run; None without annotations. Raises: DataError."""
    text = partial(sentence_of, max_words=run.data.max_words)
    return read_validation(run, FORMAT, text=text, classes=CLASSES, world=world, tokenizer=tokenizer)
