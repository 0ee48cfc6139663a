"""Pretraining as a task (paper, section 3): the momentum teacher gives soft targets, the student is trained on three
losses, the teacher's features join the queue, the teacher follows the student.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from albef.errors import CheckpointError
from albef.inputs.batch import PretrainBatch, TeacherTargets
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.losses import contrastive_logits
from albef.objective.queue import FeatureQueue
from albef.weights.initialise import initialise
from pipeline.config.run_config import PretrainingRun
from pipeline.config.sections import DataConfig
from pipeline.data import seeds
from pipeline.engine.compile import INDUCTOR, Backend, compile_forward, compiled, let_vary
from pipeline.engine.distributed import World
from pipeline.engine.new_student import new_student
from pipeline.engine.schedule import alpha_at
from pipeline.task import LaneLosses, LaneStep, Pictures, Progress
from pipeline.tasks.pretraining.collate import PretrainBatcher
from pipeline.tasks.pretraining.pictures import training_pictures, training_tables
from pipeline.tasks.pretraining.weights import PretrainingWeights
from pipeline.tasks.retrieval.validation import Validator

log = logging.getLogger(__name__)

LOSS_NAMES = ("loss", "loss_itc", "loss_itm", "loss_mlm", "itm_accuracy")


@dataclass(kw_only=True)
class Pretraining:
    """The parts of pretraining. A `pipeline.task.Task`."""

    model: AlbefForPretraining
    teacher: MomentumTeacher
    queue: FeatureQueue
    batcher: PretrainBatcher
    alpha_ramp_epochs: float
    """Epochs over which the distillation weight rises from 0 to `objective.alpha`."""
    validator: Validator | None = None
    loss_names: tuple[str, ...] = LOSS_NAMES
    targets: Callable[[PretrainBatch], TeacherTargets] = field(init=False)
    """`MomentumTeacher.targets`, or that compiled."""

    def __post_init__(self) -> None:
        self.targets = self.teacher.targets

    @classmethod
    def of_parts(cls, student: AlbefForPretraining, teacher: MomentumTeacher, queue: FeatureQueue) -> Pretraining:
        """Around parts that exist, for single lanes: every step has the objective's alpha, nothing is validated."""
        data = DataConfig()
        batcher = PretrainBatcher(
            model=student.config,
            objective=student.objective,
            augment=data.augment,
            max_caption_words=data.max_caption_words,
            tokenizer=AlbefTokenizer(),
        )
        return cls(model=student, teacher=teacher, queue=queue, batcher=batcher, alpha_ramp_epochs=0.0)

    @classmethod
    def of_weights(
        cls, weights: PretrainingWeights, *, alpha: float, device: torch.device, compute_dtype: torch.dtype
    ) -> Pretraining:
        """A saved run's parts without an engine, to take single lanes of a step with.

        Args:
            alpha: the distillation weight of that step.
            compute_dtype: of student and teacher.
        """
        student = AlbefForPretraining(weights.config, dataclasses.replace(weights.objective, alpha=alpha))
        student.load_state_dict(weights.student)
        student.to(device).train()
        teacher = MomentumTeacher(student, device=device, compute_dtype=compute_dtype)
        teacher.load_state_dict(weights.teacher)
        student.to(compute_dtype)
        queue = FeatureQueue(weights.queue["image"].shape[0], weights.config.embed_dim, seed=0, device=device)
        queue.load_state_dict(dict(weights.queue))
        return cls.of_parts(student, teacher, queue)

    @classmethod
    def of_run(
        cls, run: PretrainingRun, world: World, compute_dtype: torch.dtype, *, backend: Backend = INDUCTOR
    ) -> Pretraining:
        """Student, teacher and queue of a run, equal on all ranks; the validation set is opened.

        Args:
            compute_dtype: of the teacher's forward, as the engine will have the student's.
            backend: see `compile`.

        Raises: CheckpointError for starting weights, DataError for validation data that cannot be read, ConfigError for
            kernels that cannot run here.
        """
        tokenizer = AlbefTokenizer()
        student = new_student(lambda: AlbefForPretraining(run.model.shape, run.objective), run, world)
        for report in initialise(student, run.init):
            log.info("%s", report)
        student.to(world.device).train()
        task = cls(
            model=student,
            # Before the engine, which casts the student's weights to bf16: the teacher's stay fp32.
            teacher=MomentumTeacher(student, device=world.device, compute_dtype=compute_dtype),
            queue=FeatureQueue(
                run.objective.queue_size,
                run.model.embed_dim,
                seed=seeds.derive(run.seed, "queue"),
                device=world.device,
            ),
            batcher=PretrainBatcher(
                model=run.model.shape,
                objective=run.objective,
                augment=run.data.augment,
                max_caption_words=run.data.max_caption_words,
                tokenizer=tokenizer,
            ),
            alpha_ramp_epochs=run.schedule.alpha_ramp_epochs,
            validator=Validator.of_manifest(run.validation, run.model, tokenizer, world),
        )
        if run.model.compile:
            task.compile(backend=backend)
        return task

    def compile(self, *, backend: Backend = INDUCTOR) -> None:
        """Compile what a lane costs: the student's forward, in place, and the teacher's targets.

        There are at most two graphs of each: of texts padded to a multiple of 8, and to a `max_text_tokens` that is
        none, where the rows of attention's mask have gaps. The number of masked tokens is a symbol of both. What the
        validation uses of the student stays uncompiled.

        Args:
            backend: see `pipeline.engine.compile`; tests take a faster one.
        """
        compile_forward(self.model, backend=backend)
        of_teacher = compiled(self.teacher.targets, backend=backend)

        def targets(batch: PretrainBatch) -> TeacherTargets:
            for ids in (batch.input_ids, batch.mlm_input_ids, batch.attention_mask):
                let_vary(ids, 1)  # L
            for rows in (batch.mlm_positions, batch.mlm_labels):
                let_vary(rows, 0)  # N
            found = of_teacher(batch)
            if found.mlm_logits is not None:
                let_vary(found.mlm_logits.states, 0)
            return found

        self.targets = targets

    @property
    def shape(self) -> dict[str, Any]:
        """Model and objective."""
        return {"model": self.model.config.to_dict(), "objective": dataclasses.asdict(self.model.objective)}

    def losses(self, engine: Any, batch: PretrainBatch, at: LaneStep) -> LaneLosses:
        """The teacher's targets, its features to the queue's gather, the student's three losses."""
        batch = batch.normalised()  # once, for teacher and student
        objective = self.model.objective
        alpha = alpha_at(
            at.step, objective.alpha, steps_per_epoch=at.steps_per_epoch, ramp_epochs=self.alpha_ramp_epochs
        )
        temperature = self.model.clamped_temperature().detach()
        targets = self.targets(batch)
        self.queue.gather(targets.image_feat, targets.text_feat, num_lanes=at.num_lanes)
        weight = torch.full((), alpha, dtype=torch.float64, device=temperature.device)
        output = engine(batch, targets, self.queue, weight)
        return LaneLosses(
            total=output.total,
            values=torch.stack([loss.detach() for loss in output[: len(self.loss_names)]]),
            scalars={"train/alpha": alpha, "train/temperature": temperature},
            pictures=partial(self._pictures, batch, targets, output.teacher_lse_i2t, temperature),
        )

    def advance(self, engine: Any, *, steps_done: int) -> None:
        """Write the gathered features to the queue, move the teacher; now and then compare the ranks' queues.

        Moving the teacher after the optimizer's step is the same sequence as the original's, which does it at the start
        of the next forward. With accumulation both advance once a step, and every lane sees the queue as it was.
        """
        self.queue.enqueue()
        self.teacher.update(self.model)
        every = self.model.objective.queue_check_every
        if every and steps_done % every == 0:
            self.queue.assert_equal_across_ranks()

    def discard(self) -> None:
        """Drop the features of a skipped step."""
        self.queue.discard()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The teacher's averaged weights, and the queue with its pointer."""
        queue = {"image": self.queue.image, "text": self.queue.text, "pointer": torch.tensor(self.queue.pointer)}
        # straight from where they live: state_dict() of either would copy on the device first
        return {"teacher": dict(self.teacher.weights.named_parameters()), "queue": queue}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Raises: CheckpointError when a part is missing, or of another model or queue."""
        if missing := {"teacher", "queue"} - state.keys():
            raise CheckpointError(f"the checkpoint holds no {' and no '.join(sorted(missing))}", "use another one")
        self.teacher.load_state_dict(dict(state["teacher"]))
        self.queue.load_state_dict(dict(state["queue"]))

    def validate(self, engine: Any, progress: Progress) -> dict[str, float]:
        """Zero-shot retrieval with the student; under `val/`."""
        return self.validator.run(self.model, progress) if self.validator is not None else {}

    def _pictures(
        self, batch: PretrainBatch, targets: TeacherTargets, teacher_lse: Tensor | None, temperature: Tensor
    ) -> Pictures:
        """Samples and the teacher's pseudo-targets beside the ground truth (paper, figure 2)."""
        tokenizer = self.batcher.tokenizer
        itc = None  # (B, B)
        if teacher_lse is not None:  # of batch and queue, as the queue was in the step
            scores = contrastive_logits(targets.image_feat, targets.text_feat, None, temperature)
            itc = (scores - teacher_lse[:, None]).exp()
        return training_pictures(batch, targets, itc, tokenizer), training_tables(batch, targets, itc, tokenizer)
