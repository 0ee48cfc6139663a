"""Visual entailment as a task: cross-entropy on three classes, mixed with a momentum teacher's by alpha."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from albef.downstream.snli_ve import AlbefForEntailment, EntailmentTeacher
from albef.errors import CheckpointError
from albef.inputs.snli_ve_batch import CLASSES, EntailmentBatch
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import EntailmentRun
from pipeline.data import seeds
from pipeline.data.annotations.corpus import read_annotations
from pipeline.engine.distributed import World
from pipeline.engine.kernels import check_kernels
from pipeline.engine.schedule import alpha_at
from pipeline.task import LaneLosses, LaneStep, Pictures, Progress
from pipeline.tasks.finetuning.classification import ClassificationSet, ClassifierValidation
from pipeline.tasks.finetuning.starting_weights import start_from_model
from pipeline.tasks.snli_ve.annotations import FORMAT, sentence_of
from pipeline.tasks.snli_ve.batcher import EntailmentBatcher

log = logging.getLogger(__name__)

LOSS_NAMES = ("loss", "accuracy")


@dataclass(kw_only=True)
class Entailment:
    """The parts of fine-tuning on SNLI-VE. A `pipeline.task.Task`."""

    model: AlbefForEntailment
    teacher: EntailmentTeacher | None
    """None where the objective does not distill."""
    batcher: EntailmentBatcher
    alpha_ramp_epochs: float
    validation: ClassifierValidation | None = None
    loss_names: tuple[str, ...] = LOSS_NAMES
    steps_done: int = 0
    """For the validation's warning; 0 until the first step of a start."""

    @classmethod
    def of_run(cls, run: EntailmentRun, world: World, compute_dtype: torch.dtype) -> Entailment:
        """Student and teacher of a run, equal on all ranks; the validation set is opened.

        Args:
            compute_dtype: of the teacher's forward, as the engine will have the student's.

        Raises: CheckpointError for starting weights, DataError for validation data that cannot be read, ConfigError for
            kernels that cannot run here.
        """
        check_kernels(run.model.kernels, world.device)
        tokenizer = AlbefTokenizer()
        torch.manual_seed(seeds.derive(run.seed, "weights"))  # the same weights on every rank
        student = AlbefForEntailment(run.model.shape, run.objective)
        student.kernels = run.model.kernels
        if run.model.activation_checkpointing:
            student.checkpoint_activations()
        if run.init.model is None:
            log.warning("init.model is null: training starts from random weights")
        else:
            log.info("%s", start_from_model(student, run.model.shape, run.init.model))
        student.to(world.device).train()
        return cls(
            model=student,
            # After the weights are loaded, and before the engine casts them to bf16: the teacher's stay fp32.
            teacher=EntailmentTeacher(student, device=world.device, compute_dtype=compute_dtype)
            if run.objective.distill
            else None,
            batcher=batcher_of(run, tokenizer),
            alpha_ramp_epochs=run.schedule.alpha_ramp_epochs,
            validation=validation_of(run, world, tokenizer),
        )

    @property
    def shape(self) -> dict[str, Any]:
        """Task, model and objective."""
        return {
            "task": "snli-ve",
            "model": self.model.config.to_dict(),
            "objective": dataclasses.asdict(self.model.objective),
        }

    def losses(self, engine: Any, batch: EntailmentBatch, at: LaneStep) -> LaneLosses:
        """The teacher's answers, the student's loss."""
        batch = batch.normalised()  # once, for teacher and student
        alpha = alpha_at(
            at.step,
            self.model.objective.alpha,
            steps_per_epoch=at.steps_per_epoch,
            ramp_epochs=self.alpha_ramp_epochs,
        )
        targets = None if self.teacher is None else self.teacher.targets(batch)
        weight = torch.full((), alpha, dtype=torch.float64, device=batch.image.device)
        output = engine(batch, targets, weight)
        return LaneLosses(
            total=output.total,
            values=torch.stack([output.total.detach(), output.accuracy]),
            scalars={} if self.teacher is None else {"train/alpha": alpha},
            pictures=no_pictures,
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

    def validate(self, engine: Any, progress: Progress) -> dict[str, float]:
        """The student's accuracy; under `val/`."""
        if self.validation is None:
            return {}
        return self.validation.run(self.model, self.model.predict, steps_done=self.steps_done, progress=progress)


def batcher_of(run: EntailmentRun, tokenizer: AlbefTokenizer) -> EntailmentBatcher:
    """The batcher of a run."""
    return EntailmentBatcher(
        model=run.model.shape,
        augment=run.data.augment,
        max_words=run.data.max_words,
        max_text_tokens=run.objective.max_text_tokens,
        tokenizer=tokenizer,
    )


def validation_of(run: EntailmentRun, world: World, tokenizer: AlbefTokenizer) -> ClassifierValidation | None:
    """The validation of a run; None without annotations. Raises: DataError."""
    config = run.validation
    if not config.annotations:
        return None
    corpus = read_annotations(
        config.annotations, config.images or run.data.images, FORMAT, section="validation" if config.images else "data"
    )
    data = ClassificationSet.of_corpus(
        corpus,
        text=partial(sentence_of, max_words=run.data.max_words),
        classes=CLASSES,
        model=run.model.shape,
        tokenizer=tokenizer,
        max_text_tokens=run.objective.max_text_tokens,
    )
    return ClassifierValidation(
        data,
        world=world,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        majority_after_steps=config.majority_after_steps,
    )


def no_pictures() -> Pictures:
    """Nothing for TensorBoard."""
    return {}, {}
