"""Retrieval without data or weights, for planning: shapes, noise, bytes beside the engine, keys a query."""

from __future__ import annotations

import torch

from albef.downstream.retrieval import AlbefForRetrieval, RetrievalTeacher
from albef.inputs.retrieval_batch import RetrievalBatch
from albef.inputs.tokenizer import AlbefTokenizer
from albef.objective.queue import FeatureQueue
from pipeline.config.run_config import PairsRun
from pipeline.tasks.retrieval.finetuning.task import Retrieval, batcher_of


def sketch(kind: type[Retrieval], run: PairsRun, dtype: torch.dtype) -> Retrieval:
    """A task on the meta device, as the engine has it in arithmetic of `dtype`; alpha is at its full height."""
    with torch.device("meta"):
        student = AlbefForRetrieval(run.model.shape, run.objective)
    if run.model.activation_checkpointing:
        student.checkpoint_activations()
    teacher = RetrievalTeacher(student, device="meta", compute_dtype=dtype)
    return kind(
        model=student.to(dtype).train(),
        teacher=teacher,
        queue=FeatureQueue(run.objective.queue_size, run.model.embed_dim, seed=0, device="meta", with_ids=True),
        batcher=batcher_of(run, AlbefTokenizer()),
        alpha_ramp_epochs=0.0,
    )


def noise(run: PairsRun, batch_size: int) -> RetrievalBatch:
    """A micro-batch of noise on the host, whose texts are all `max_text_tokens` long, the costliest case."""
    config, length = run.model, run.objective.max_text_tokens
    return RetrievalBatch(
        image=torch.randint(0, 256, (batch_size, 3, config.image_size, config.image_size), dtype=torch.uint8),
        input_ids=torch.randint(1_000 % config.vocab_size, config.vocab_size, (batch_size, length)),
        attention_mask=torch.ones(batch_size, length, dtype=torch.int64),
        image_ids=torch.arange(batch_size),
        negative_draws=torch.rand(2, batch_size, dtype=torch.float64),
        keys=[f"noise {index}" for index in range(batch_size)],
        captions=[""] * batch_size,
    )


def bytes_beside(sketch: Retrieval) -> dict[str, int]:
    """The teacher, with the copy of its weights in another precision if it has one, and the queue with its numbers."""
    teacher, queue = sketch.teacher, sketch.queue
    models = {teacher.weights, teacher.model}  # one and the same where the forward computes in fp32
    assert queue.ids is not None
    return {
        "teacher": sum(weight.nbytes for model in models for weight in model.parameters()),
        "queue": queue.image.nbytes + queue.text.nbytes + queue.ids.nbytes,
    }


def batch_lines(run: PairsRun) -> list[str]:
    """How many keys each contrastive query has, which is not the global batch."""
    lane, queue = run.batch.micro_batch_size, run.objective.queue_size
    return [f"contrastive candidates {lane + queue:,} (lane {lane} + queue {queue:,})"]
