"""NLVR2 for the commands: how a run and planning get the task, its data, and what would stop a start."""

from __future__ import annotations

from albef.downstream.nlvr2 import AlbefForNlvr2
from pipeline.tasks.finetuning.maker import annotation_maker
from pipeline.tasks.nlvr2.annotations import FORMAT
from pipeline.tasks.nlvr2.batcher import Nlvr2Batcher
from pipeline.tasks.nlvr2.sketch import noise, sketch
from pipeline.tasks.nlvr2.task import Nlvr2, validation_of

NLVR2 = annotation_maker(
    form=FORMAT,
    model=AlbefForNlvr2,
    make=Nlvr2.of_run,
    batcher=Nlvr2Batcher,
    sketch=sketch,
    noise=noise,
    validation=validation_of,
)
