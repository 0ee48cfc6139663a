"""The pretraining task around parts that a test has made."""

from __future__ import annotations

from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.queue import FeatureQueue
from albef.tokenizer import AlbefTokenizer
from pipeline.config.sections import AugmentConfig
from pipeline.tasks.pretraining.collate import PretrainBatcher
from pipeline.tasks.pretraining.task import Pretraining


def task_of(student: AlbefForPretraining, teacher: MomentumTeacher, queue: FeatureQueue) -> Pretraining:
    """Without a ramp: every step has the objective's alpha."""
    batcher = PretrainBatcher(
        model=student.config,
        objective=student.objective,
        augment=AugmentConfig(),
        max_caption_words=30,
        tokenizer=AlbefTokenizer(),
    )
    return Pretraining(model=student, teacher=teacher, queue=queue, batcher=batcher, alpha_ramp_epochs=0.0)
