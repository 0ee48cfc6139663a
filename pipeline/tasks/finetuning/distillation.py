"""Fine-tuning with momentum distillation as a task: a loss, mixed with a momentum teacher's by alpha."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from albef.downstream.nlvr2 import AlbefForNlvr2, Nlvr2Teacher
from albef.downstream.snli_ve import AlbefForEntailment, EntailmentTeacher
from albef.downstream.vqa import AlbefForVqa, VqaTeacher
from albef.errors import CheckpointError
from pipeline.config.run_config import RunConfig
from pipeline.engine.compile import INDUCTOR, Backend, compile_lane
from pipeline.engine.schedule import alpha_at
from pipeline.task import Batcher, LaneLosses, LaneStep, Progress
from pipeline.tasks.finetuning.classification import ClassifierValidation


@dataclass(kw_only=True)
class Distilled:
    """The parts of such a fine-tuning. A `pipeline.task.Task`, whose subclass makes them, and validates."""

    name: ClassVar[str]
    """The task's name in a recipe."""
    varying: ClassVar[Mapping[str, Sequence[int]]] = {"input_ids": (1,), "attention_mask": (1,)}
    """Tensors of a batch by name, with their dimensions that differ between batches: the length of the texts."""

    model: AlbefForEntailment | AlbefForNlvr2 | AlbefForVqa
    teacher: EntailmentTeacher | Nlvr2Teacher | VqaTeacher | None
    """None where the objective does not distill."""
    batcher: Batcher
    alpha_ramp_epochs: float
    loss_names: tuple[str, ...] = ("loss",)
    """What the model's output begins with."""
    steps_done: int = 0
    """For the validation's warning; 0 until the first step of a start."""
    compiled_targets: Callable[[Any], Any] | None = field(init=False, default=None)
    """`targets` compiled."""

    def targets(self, batch: Any) -> Any:
        """The teacher's targets of a batch; None without a teacher."""
        return None if self.teacher is None else self.teacher.targets(batch)

    def compile(self, *, backend: Backend = INDUCTOR) -> None:
        """Compile what a lane costs. What the validation uses of the student stays uncompiled.

        Args:
            backend: see `pipeline.engine.compile`; tests take a faster one.
        """
        targets = self.targets if self.teacher is None else self.teacher.targets
        self.compiled_targets = compile_lane(self.model, targets, varying=self.varying, backend=backend)

    def compiled_if(self, run: RunConfig) -> Self:
        """The same task, compiled where `model.compile` is true."""
        if run.model.compile:
            self.compile()
        return self

    @property
    def shape(self) -> dict[str, Any]:
        """Task, model and objective."""
        return {
            "task": self.name,
            "model": self.model.config.to_dict(),
            "objective": dataclasses.asdict(self.model.objective),
        }

    def losses(self, engine: Any, batch: Any, at: LaneStep) -> LaneLosses:
        """The teacher's targets, the student's loss."""
        batch = batch.normalised()  # once, for teacher and student
        alpha = alpha_at(
            at.step,
            self.model.objective.alpha,
            steps_per_epoch=at.steps_per_epoch,
            ramp_epochs=self.alpha_ramp_epochs,
        )
        targets = (self.compiled_targets or self.targets)(batch)
        weight = torch.full((), alpha, dtype=torch.float64, device=batch.image.device)
        output = engine(batch, targets, weight)
        return LaneLosses(
            total=output.total,
            values=torch.stack([value.detach() for value in output[: len(self.loss_names)]]),
            scalars={} if self.teacher is None else {"train/alpha": alpha},
        )

    def advance(self, engine: Any, *, steps_done: int) -> None:
        """Move the teacher."""
        self.steps_done = steps_done
        if self.teacher is not None:
            self.teacher.update(self.model)

    def discard(self) -> None:
        """Nothing: the forward leaves nothing behind."""

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The teacher's averaged weights."""
        return {} if self.teacher is None else {"teacher": dict(self.teacher.weights.named_parameters())}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Raises: CheckpointError when the teacher is missing, or of another model."""
        if self.teacher is None:
            return
        if "teacher" not in state:
            raise CheckpointError("the checkpoint holds no teacher", "use another one")
        self.teacher.load_state_dict(dict(state["teacher"]))


@dataclass(kw_only=True)
class DistilledClassifier(Distilled):
    """The same of a model that chooses a class."""

    model: AlbefForEntailment | AlbefForNlvr2
    loss_names: tuple[str, ...] = ("loss", "accuracy")
    validation: ClassifierValidation | None = None

    def validate(self, engine: Any, progress: Progress) -> dict[str, float]:
        """The student's accuracy; under `val/`."""
        if self.validation is None:
            return {}
        return self.validation.run(self.model, self.model.predict, steps_done=self.steps_done, progress=progress)


def bytes_beside(sketch: Distilled) -> dict[str, int]:
    """Bytes of the teacher, with the copy of its weights in another precision if it has one."""
    if sketch.teacher is None:
        return {}
    models = {sketch.teacher.weights, sketch.teacher.model}  # one and the same where the forward computes in fp32
    return {"teacher": sum(weight.nbytes for model in models for weight in model.parameters())}
