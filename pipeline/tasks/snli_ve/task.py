"""Visual entailment as a task: student, teacher and validation of a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from albef.downstream.snli_ve import AlbefForEntailment, EntailmentTeacher
from albef.inputs.snli_ve_batch import CLASSES
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import EntailmentRun
from pipeline.engine.distributed import World
from pipeline.engine.new_student import new_student
from pipeline.tasks.finetuning.classification import ClassifierValidation, read_validation
from pipeline.tasks.finetuning.distillation import DistilledClassifier
from pipeline.tasks.finetuning.starting_weights import start_student, start_teacher
from pipeline.tasks.snli_ve.annotations import FORMAT, sentence_of
from pipeline.tasks.snli_ve.batcher import EntailmentBatcher


@dataclass(kw_only=True)
class Entailment(DistilledClassifier):
    """The parts of fine-tuning on SNLI-VE. A `pipeline.task.Task`."""

    name: ClassVar[str] = EntailmentRun.task

    @classmethod
    def of_run(cls, run: EntailmentRun, world: World, compute_dtype: torch.dtype) -> Entailment:
        """Student and teacher of a run, equal on all ranks; the validation set is opened.

        Args:
            compute_dtype: of the teacher's forward, as the engine will have the student's.

        Raises: CheckpointError for starting weights, DataError for validation data that cannot be read, ConfigError for
            kernels that cannot run here.
        """
        tokenizer = AlbefTokenizer()
        student = new_student(lambda: AlbefForEntailment(run.model.shape, run.objective), run, world)
        source = start_student(student, run)
        student.to(world.device).train()
        teacher = None
        if run.objective.distill:
            # After the weights are loaded, and before the engine casts them to bf16: the teacher's stay fp32.
            teacher = EntailmentTeacher(student, device=world.device, compute_dtype=compute_dtype)
            start_teacher(teacher, source)
        return cls(
            model=student,
            teacher=teacher,
            batcher=batcher_of(run, tokenizer),
            alpha_ramp_epochs=run.schedule.alpha_ramp_epochs,
            validation=validation_of(run, world, tokenizer),
        ).compiled_if(run)


def batcher_of(run: EntailmentRun, tokenizer: AlbefTokenizer) -> EntailmentBatcher:
    """The batcher of a run."""
    return EntailmentBatcher(
        model=run.model.shape,
        augment=run.data.augment,
        max_words=run.data.max_words,
        max_text_tokens=run.objective.max_text_tokens,
        tokenizer=tokenizer,
    )


def validation_of(run: EntailmentRun, world: World, tokenizer: AlbefTokenizer) -> ClassifierValidation | None:
    """The validation of a run; None without annotations. Raises: DataError."""
    text = partial(sentence_of, max_words=run.data.max_words)
    return read_validation(run, FORMAT, text=text, classes=CLASSES, world=world, tokenizer=tokenizer)
