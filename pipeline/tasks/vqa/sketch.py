"""VQA without data or weights, for planning: shapes and noise."""

from __future__ import annotations

import torch

from albef.downstream.vqa import AlbefForVqa, VqaTeacher
from albef.inputs.tokenizer import AlbefTokenizer
from albef.inputs.vqa_batch import VqaBatch, decoder_inputs
from pipeline.config.run_config import VqaRun
from pipeline.tasks.vqa.task import Vqa, batcher_of

ANSWERS = 10
"""Of a question: as many as people were asked, all different."""
ANSWER_TOKENS = 8
"""Of an answer: more than most, which are a word or two; ten that are all as long as `max_answer_tokens` do not occur.
"""


def sketch(run: VqaRun, dtype: torch.dtype) -> Vqa:
    """The task on the meta device, as the engine has it in arithmetic of `dtype`."""
    with torch.device("meta"):
        student = AlbefForVqa(run.model.shape, run.objective)
    if run.model.activation_checkpointing:
        student.checkpoint_activations()
    distills = run.objective.distill
    return Vqa(
        model=student.to(dtype).train(),
        teacher=VqaTeacher(student, device="meta", compute_dtype=dtype) if distills else None,
        batcher=batcher_of(run, AlbefTokenizer()),
        alpha_ramp_epochs=0.0,
    )


def noise(run: VqaRun, batch_size: int) -> VqaBatch:
    """A micro-batch of noise on the host: the longest questions, and as many answers as a question can have."""
    config, length, rows = run.model, run.objective.max_text_tokens, batch_size * ANSWERS
    first = 1_000 % config.vocab_size
    answer_ids = torch.randint(first, config.vocab_size, (rows, min(ANSWER_TOKENS, run.objective.max_answer_tokens)))
    inputs = decoder_inputs(answer_ids, torch.ones_like(answer_ids))
    return VqaBatch(
        image=torch.randint(0, 256, (batch_size, 3, config.image_size, config.image_size), dtype=torch.uint8),
        question_ids=torch.randint(first, config.vocab_size, (batch_size, length)),
        question_mask=torch.ones(batch_size, length, dtype=torch.int64),
        answer_ids=inputs.ids,
        answer_question=torch.arange(batch_size).repeat_interleave(ANSWERS),
        answer_weights=torch.full((rows,), 1 / ANSWERS),
        answer_positions=inputs.positions,
        answer_labels=inputs.labels,
        keys=[f"noise {index}" for index in range(batch_size)],
        captions=[""] * batch_size,
    )
