"""Retrieval as a task: contrastive and matching loss; in batch and queue, all texts of an image are its positives."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from albef.downstream.retrieval import AlbefForRetrieval, RetrievalTeacher
from albef.errors import CheckpointError
from albef.inputs.batch import TeacherTargets
from albef.inputs.retrieval_batch import RetrievalBatch
from albef.inputs.tokenizer import AlbefTokenizer
from albef.objective.queue import FeatureQueue
from albef.weights.to_task import start_queue
from pipeline.config.run_config import PairsRun, RetrievalRun
from pipeline.data import seeds
from pipeline.data.annotations.corpus import read_annotations
from pipeline.data.annotations.entries import Format
from pipeline.engine.compile import INDUCTOR, Backend, compile_lane
from pipeline.engine.distributed import World
from pipeline.engine.new_student import new_student
from pipeline.engine.schedule import alpha_at
from pipeline.task import LaneLosses, LaneStep, Progress
from pipeline.tasks.finetuning.starting_weights import Source, start_student, start_teacher
from pipeline.tasks.retrieval.annotations import retrieval_set
from pipeline.tasks.retrieval.finetuning.annotations import FORMAT, validation_pairs
from pipeline.tasks.retrieval.finetuning.batcher import RetrievalBatcher
from pipeline.tasks.retrieval.validation import Scorer, Validator

log = logging.getLogger(__name__)

LOSS_NAMES = ("loss", "loss_itc", "loss_itm", "itm_accuracy")


@dataclass(kw_only=True)
class Retrieval:
    """The parts of fine-tuning for retrieval. A `pipeline.task.Task`.

    Another task on pairs of images and texts is a subclass with its own name, lists and validation.
    """

    name: ClassVar[str] = RetrievalRun.task
    """The task's name in a recipe."""
    form: ClassVar[Format] = FORMAT
    """Of its lists; rows have `captions`, and `identity`, which pairs of one image share."""

    model: AlbefForRetrieval
    teacher: RetrievalTeacher
    queue: FeatureQueue
    """With the numbers of the rows' images."""
    batcher: RetrievalBatcher
    alpha_ramp_epochs: float
    """Epochs over which the distillation weight rises from 0 to `objective.alpha`."""
    validator: Scorer | None = None
    loss_names: tuple[str, ...] = LOSS_NAMES
    compiled_targets: Callable[[RetrievalBatch], TeacherTargets] | None = field(init=False, default=None)
    """The teacher's `targets` compiled."""

    @classmethod
    def of_run(cls, run: PairsRun, world: World, compute_dtype: torch.dtype) -> Self:
        """Student, teacher and queue of a run, equal on all ranks; the validation set is opened.

        Args:
            compute_dtype: of the teacher's forward, as the engine will have the student's.

        Raises: CheckpointError for starting weights, DataError for validation data that cannot be read, ConfigError for
            kernels that cannot run here.
        """
        tokenizer = AlbefTokenizer()
        student = new_student(lambda: AlbefForRetrieval(run.model.shape, run.objective), run, world)
        source = start_student(student, run)
        student.to(world.device).train()
        # After the weights are loaded, and before the engine casts them to bf16: the teacher's stay fp32.
        teacher = RetrievalTeacher(student, device=world.device, compute_dtype=compute_dtype)
        queue = FeatureQueue(
            run.objective.queue_size,
            run.model.embed_dim,
            seed=seeds.derive(run.seed, "queue"),
            device=world.device,
            with_ids=True,
        )
        start_teacher(teacher, source)
        if source is not None:
            start_rows(queue, source)
        task = cls(
            model=student,
            teacher=teacher,
            queue=queue,
            batcher=batcher_of(run, tokenizer),
            alpha_ramp_epochs=run.schedule.alpha_ramp_epochs,
            validator=cls.validator_of(run, world, tokenizer),
        )
        if run.model.compile:
            task.compile()
        return task

    def compile(self, *, backend: Backend = INDUCTOR) -> None:
        """Compile what a lane costs. What the validation uses of the student stays uncompiled.

        Args:
            backend: see `pipeline.engine.compile`; tests take a faster one.
        """
        varying = {"input_ids": (1,), "attention_mask": (1,)}  # the length of the texts
        self.compiled_targets = compile_lane(self.model, self.teacher.targets, varying=varying, backend=backend)

    @classmethod
    def validator_of(cls, run: PairsRun, world: World, tokenizer: AlbefTokenizer) -> Scorer:
        """The validation of a run; without annotations it has no pairs. Raises: DataError."""
        assert isinstance(run, RetrievalRun)
        config = run.validation
        data = None
        if config.annotations:
            section = "validation" if config.images else "data"
            corpus = read_annotations(config.annotations, config.images or run.data.images, cls.form, section=section)
            data = retrieval_set(
                validation_pairs(corpus, max_words=run.data.max_words),
                run.model.shape,
                tokenizer,
                max_text_tokens=run.objective.max_text_tokens,
            )
        return Validator(
            data, world, k_test=config.k_test, batch_size=config.batch_size, num_workers=config.num_workers
        )

    @property
    def shape(self) -> dict[str, Any]:
        """Task, model and objective."""
        return {
            "task": self.name,
            "model": self.model.config.to_dict(),
            "objective": dataclasses.asdict(self.model.objective),
        }

    def losses(self, engine: Any, batch: RetrievalBatch, at: LaneStep) -> LaneLosses:
        """The teacher's features to the queue's gather, the student's two losses."""
        batch = batch.normalised()  # once, for teacher and student
        alpha = alpha_at(
            at.step,
            self.model.objective.alpha,
            steps_per_epoch=at.steps_per_epoch,
            ramp_epochs=self.alpha_ramp_epochs,
        )
        temperature = self.model.temperature.detach().clone().float().squeeze()
        targets = (self.compiled_targets or self.teacher.targets)(batch)
        self.queue.gather(targets.image_feat, targets.text_feat, batch.image_ids, num_lanes=at.num_lanes)
        weight = torch.full((), alpha, dtype=torch.float64, device=batch.image.device)
        output = engine(batch, targets, self.queue, weight)
        return LaneLosses(
            total=output.total,
            values=torch.stack([loss.detach() for loss in output[: len(self.loss_names)]]),
            scalars={"train/alpha": alpha, "train/temperature": temperature},
        )

    def advance(self, engine: Any, *, steps_done: int) -> None:
        """Write the gathered features to the queue, move the teacher; now and then compare the ranks' queues."""
        self.queue.enqueue()
        self.teacher.update(self.model)
        every = self.model.objective.queue_check_every
        if every and steps_done % every == 0:
            self.queue.assert_equal_across_ranks()

    def discard(self) -> None:
        """Drop the features of a skipped step."""
        self.queue.discard()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The teacher's averaged weights, and the queue with its images' numbers and its pointer."""
        assert self.queue.ids is not None
        queue = {"image": self.queue.image, "text": self.queue.text, "ids": self.queue.ids}
        # straight from where they live: state_dict() of either would copy on the device first
        return {
            "teacher": dict(self.teacher.weights.named_parameters()),
            "queue": queue | {"pointer": torch.tensor(self.queue.pointer)},
        }

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Raises: CheckpointError when a part is missing, or of another model or queue."""
        if missing := {"teacher", "queue"} - state.keys():
            raise CheckpointError(f"the checkpoint holds no {' and no '.join(sorted(missing))}", "use another one")
        self.teacher.load_state_dict(dict(state["teacher"]))
        self.queue.load_state_dict(dict(state["queue"]))

    def validate(self, engine: Any, progress: Progress) -> dict[str, float]:
        """Recalls of the student; under `val/`."""
        return self.validator.run(self.model, progress) if self.validator is not None else {}


def start_rows(queue: FeatureQueue, source: Source) -> None:
    """Start the queue from that of an official checkpoint, as the original does; without one it stays.

    No image of this run has the numbers of the queue's rows, not even where the checkpoint is of retrieval: it counted
    the images of its own lists. A queue of another size keeps its random rows.
    """
    official = source.official
    if official is not None and official.queue is not None:
        rows = {name: official.queue[name] for name in ("image", "text", "pointer")}
        if len(rows["image"]) == queue.size:
            start_queue(queue, rows)
            log.info("queue: %d rows from %s", queue.size, source.name)
        else:
            log.info("queue: random rows, because %s has %d, not %d", source.name, len(rows["image"]), queue.size)


def batcher_of(run: PairsRun, tokenizer: AlbefTokenizer) -> RetrievalBatcher:
    """The batcher of a run."""
    return RetrievalBatcher(
        model=run.model.shape,
        augment=run.data.augment,
        max_words=run.data.max_words,
        max_text_tokens=run.objective.max_text_tokens,
        tokenizer=tokenizer,
    )
