"""Pretraining without data or weights, for planning: shapes, noise, bytes beside the engine, keys a query."""

from __future__ import annotations

import torch

from albef.inputs.batch import PretrainBatch
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.queue import FeatureQueue
from pipeline.config.run_config import PretrainingRun
from pipeline.tasks.pretraining.task import Pretraining


def sketch(run: PretrainingRun, dtype: torch.dtype) -> Pretraining:
    """The task on the meta device, as the engine has it in arithmetic of `dtype`; alpha is at its full height."""
    with torch.device("meta"):
        student = AlbefForPretraining(run.model.shape, run.objective)
    if run.model.activation_checkpointing:
        student.checkpoint_activations()
    teacher = MomentumTeacher(student, device="meta", compute_dtype=dtype)
    queue = FeatureQueue(run.objective.queue_size, run.model.embed_dim, seed=0, device="meta")
    return Pretraining.of_parts(student.to(dtype).train(), teacher, queue)


def noise(run: PretrainingRun, batch_size: int) -> PretrainBatch:
    """A micro-batch of noise on the host, with the expected number of masked tokens.

    The shapes are those of a real micro-batch whose texts are all `max_text_tokens` long, the costliest case.
    """
    config, length = run.model, run.objective.max_text_tokens
    num_masked = max(1, round(batch_size * (length - 1) * run.objective.mlm_probability))
    maskable = torch.arange(batch_size * length).view(batch_size, length)[:, 1:].reshape(-1)
    input_ids = torch.randint(1_000 % config.vocab_size, config.vocab_size, (batch_size, length))
    return PretrainBatch(
        image=torch.randint(0, 256, (batch_size, 3, config.image_size, config.image_size), dtype=torch.uint8),
        input_ids=input_ids,
        attention_mask=torch.ones(batch_size, length, dtype=torch.int64),
        mlm_input_ids=input_ids.clone(),
        mlm_positions=maskable[torch.randperm(len(maskable))[:num_masked]].sort().values,
        mlm_labels=torch.randint(0, config.vocab_size, (num_masked,)),
        negative_draws=torch.rand(2, batch_size, dtype=torch.float64),
        keys=[f"noise {index}" for index in range(batch_size)],
        captions=[""] * batch_size,
    )


def bytes_beside(sketch: Pretraining) -> dict[str, int]:
    """The teacher, with the copy of its weights in another precision if it has one, and the queue's two halves."""
    teacher, queue = sketch.teacher, sketch.queue
    models = {teacher.weights, teacher.model}  # one and the same where the forward computes in fp32
    return {
        "teacher": sum(weight.nbytes for model in models for weight in model.parameters()),
        "queue": queue.image.nbytes + queue.text.nbytes,
    }


def batch_lines(run: PretrainingRun) -> list[str]:
    """How many keys each contrastive query has, which is not the global batch."""
    lane, queue = run.batch.micro_batch_size, run.objective.queue_size
    return [f"contrastive candidates {lane + queue:,} (lane {lane} + queue {queue:,})"]
