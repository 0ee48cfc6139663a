"""NLVR2 without data or weights, for planning: shapes and noise."""

from __future__ import annotations

import torch

from albef.downstream.nlvr2 import AlbefForNlvr2, Nlvr2Teacher
from albef.inputs.nlvr2_batch import CLASSES, Nlvr2Batch
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import Nlvr2Run
from pipeline.tasks.nlvr2.task import Nlvr2, batcher_of


def sketch(run: Nlvr2Run, dtype: torch.dtype) -> Nlvr2:
    """The task on the meta device, as the engine has it in arithmetic of `dtype`; alpha is at its full height."""
    with torch.device("meta"):
        student = AlbefForNlvr2(run.model.shape, run.objective)
    if run.model.activation_checkpointing:
        student.checkpoint_activations()
    teacher = Nlvr2Teacher(student, device="meta", compute_dtype=dtype) if run.objective.distill else None
    return Nlvr2(
        model=student.to(dtype).train(),
        teacher=teacher,
        batcher=batcher_of(run, AlbefTokenizer()),
        alpha_ramp_epochs=0.0,
    )


def noise(run: Nlvr2Run, batch_size: int) -> Nlvr2Batch:
    """A micro-batch of noise on the host, whose texts are all `max_text_tokens` long, the costliest case."""
    config, length = run.model, run.objective.max_text_tokens
    return Nlvr2Batch(
        image=torch.randint(0, 256, (2 * batch_size, 3, config.image_size, config.image_size), dtype=torch.uint8),
        input_ids=torch.randint(1_000 % config.vocab_size, config.vocab_size, (batch_size, length)),
        attention_mask=torch.ones(batch_size, length, dtype=torch.int64),
        labels=torch.randint(0, len(CLASSES), (batch_size,)),
        keys=[f"noise {index}" for index in range(batch_size)],
        captions=[""] * batch_size,
    )
