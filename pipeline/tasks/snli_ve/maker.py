"""Visual entailment for the commands: how a run and planning get the task, its data, and what would stop a start."""

from __future__ import annotations

from albef.downstream.snli_ve import AlbefForEntailment
from pipeline.tasks.finetuning.maker import annotation_maker
from pipeline.tasks.snli_ve.annotations import FORMAT
from pipeline.tasks.snli_ve.batcher import EntailmentBatcher
from pipeline.tasks.snli_ve.sketch import noise, sketch
from pipeline.tasks.snli_ve.task import Entailment, validation_of

ENTAILMENT = annotation_maker(
    form=FORMAT,
    model=AlbefForEntailment,
    make=Entailment.of_run,
    batcher=EntailmentBatcher,
    sketch=sketch,
    noise=noise,
    validation=validation_of,
)
