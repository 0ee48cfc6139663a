"""Text assignment without data or weights, for planning: shapes and noise."""

from __future__ import annotations

import torch

from albef.downstream.alignment import AlbefForAlignment
from albef.inputs.alignment_batch import AlignmentBatch
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import AlignmentRun
from pipeline.tasks.text_assignment.task import Alignment, batcher_of


def sketch(run: AlignmentRun, dtype: torch.dtype) -> Alignment:
    """The task on the meta device, as the engine has it in arithmetic of `dtype`."""
    with torch.device("meta"):
        model = AlbefForAlignment(run.model.shape)
    if run.model.activation_checkpointing:
        model.checkpoint_activations()
    return Alignment(model=model.to(dtype).train(), batcher=batcher_of(run, AlbefTokenizer()))


def noise(run: AlignmentRun, batch_size: int) -> AlignmentBatch:
    """A micro-batch of noise on the host, whose texts are all `max_text_tokens` long, the costliest case."""
    config, length = run.model, run.objective.max_text_tokens
    return AlignmentBatch(
        image=torch.randint(0, 256, (batch_size, 3, config.image_size, config.image_size), dtype=torch.uint8),
        input_ids=torch.randint(1_000 % config.vocab_size, config.vocab_size, (batch_size, length)),
        attention_mask=torch.ones(batch_size, length, dtype=torch.int64),
        draws=torch.rand(4, batch_size, dtype=torch.float64),
        keys=[f"noise {index}" for index in range(batch_size)],
        captions=[""] * batch_size,
    )
