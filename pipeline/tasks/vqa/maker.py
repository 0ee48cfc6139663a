"""VQA for the commands: how a run and planning get the task, its data, and what would stop a start."""

from __future__ import annotations

from albef.downstream.vqa import AlbefForVqa
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import VqaRun
from pipeline.engine.distributed import World
from pipeline.tasks.finetuning.maker import annotation_maker
from pipeline.tasks.vqa.annotations import TRAINING, read_candidates
from pipeline.tasks.vqa.batcher import VqaBatcher
from pipeline.tasks.vqa.sketch import noise, sketch
from pipeline.tasks.vqa.task import Vqa, validation_of


def validation(run: VqaRun, world: World, tokenizer: AlbefTokenizer) -> object:
    """The candidates and the validation questions. Raises: DataError."""
    if run.data.answers is None:
        return None
    return validation_of(run, world, tokenizer, read_candidates(run.data.answers))


VQA = annotation_maker(
    form=TRAINING,
    model=AlbefForVqa,
    make=Vqa.of_run,
    batcher=VqaBatcher,
    sketch=sketch,
    noise=noise,
    validation=validation,
)
