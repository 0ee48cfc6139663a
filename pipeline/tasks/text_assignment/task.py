"""Text assignment as a task (paper, section 4): cross-entropy on which of two images has the text, or neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from albef.downstream.alignment import AlbefForAlignment
from albef.inputs.alignment_batch import AlignmentBatch
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import AlignmentRun
from pipeline.engine.distributed import World
from pipeline.engine.new_student import new_student
from pipeline.task import LaneLosses, LaneStep, Progress
from pipeline.tasks.finetuning.starting_weights import start_student
from pipeline.tasks.text_assignment.batcher import AlignmentBatcher


@dataclass(kw_only=True)
class Alignment:
    """The parts of text assignment. A `pipeline.task.Task` that keeps nothing beside the engine."""

    model: AlbefForAlignment
    batcher: AlignmentBatcher
    loss_names: tuple[str, ...] = ("loss", "accuracy")

    @classmethod
    def of_run(cls, run: AlignmentRun, world: World, compute_dtype: torch.dtype) -> Alignment:
        """The model of a run, equal on all ranks.

        Args:
            compute_dtype: of the engine's forward; nothing else here computes.

        Raises: CheckpointError for starting weights, ConfigError for kernels that cannot run here.
        """
        model = new_student(lambda: AlbefForAlignment(run.model.shape), run, world)
        start_student(model, run)
        model.to(world.device).train()
        return cls(model=model, batcher=batcher_of(run, AlbefTokenizer()))

    @property
    def shape(self) -> dict[str, Any]:
        """Task, model, and where texts are cut."""
        objective = {"max_text_tokens": self.batcher.max_text_tokens}
        return {"task": AlignmentRun.task, "model": self.model.config.to_dict(), "objective": objective}

    def losses(self, engine: Any, batch: AlignmentBatch, at: LaneStep) -> LaneLosses:
        """The model's loss, on pairs that it draws of the lane's images."""
        output = engine(batch.normalised())
        return LaneLosses(
            total=output.total,
            values=torch.stack([value.detach() for value in output[: len(self.loss_names)]]),
            scalars={},
        )

    def advance(self, engine: Any, *, steps_done: int) -> None:
        """Nothing: the optimizer's step is all."""

    def discard(self) -> None:
        """Nothing: the forward leaves nothing behind."""

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Nothing beside the engine."""
        return {}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Nothing to adopt."""

    def validate(self, engine: Any, progress: Progress) -> dict[str, float]:
        """None: the original has no score of this task, which is a step on the way to NLVR2."""
        return {}


def batcher_of(run: AlignmentRun, tokenizer: AlbefTokenizer) -> AlignmentBatcher:
    """The batcher of a run."""
    return AlignmentBatcher(
        model=run.model.shape,
        augment=run.data.augment,
        max_caption_words=run.data.max_caption_words,
        max_text_tokens=run.objective.max_text_tokens,
        tokenizer=tokenizer,
    )
