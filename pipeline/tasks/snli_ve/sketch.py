"""Visual entailment without data or weights, for planning: shapes and noise."""

from __future__ import annotations

import torch

from albef.downstream.snli_ve import AlbefForEntailment, EntailmentTeacher
from albef.inputs.snli_ve_batch import CLASSES, EntailmentBatch
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import EntailmentRun
from pipeline.tasks.snli_ve.task import Entailment, batcher_of


def sketch(run: EntailmentRun, dtype: torch.dtype) -> Entailment:
    """The task on the meta device, as the engine has it in arithmetic of `dtype`."""
    with torch.device("meta"):
        student = AlbefForEntailment(run.model.shape, run.objective)
    if run.model.activation_checkpointing:
        student.checkpoint_activations()
    distills = run.objective.distill
    teacher = EntailmentTeacher(student, device="meta", compute_dtype=dtype) if distills else None
    return Entailment(
        model=student.to(dtype).train(),
        teacher=teacher,
        batcher=batcher_of(run, AlbefTokenizer()),
        alpha_ramp_epochs=0.0,
    )


def noise(run: EntailmentRun, batch_size: int) -> EntailmentBatch:
    """A micro-batch of noise on the host, whose texts are all `max_text_tokens` long, the costliest case."""
    config, length = run.model, run.objective.max_text_tokens
    return EntailmentBatch(
        image=torch.randint(0, 256, (batch_size, 3, config.image_size, config.image_size), dtype=torch.uint8),
        input_ids=torch.randint(1_000 % config.vocab_size, config.vocab_size, (batch_size, length)),
        attention_mask=torch.ones(batch_size, length, dtype=torch.int64),
        labels=torch.randint(0, len(CLASSES), (batch_size,)),
        keys=[f"noise {index}" for index in range(batch_size)],
        captions=[""] * batch_size,
    )
