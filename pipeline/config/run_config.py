"""The whole configuration of a run: every key, resolved, as a dataclass of sections; and its dump as a recipe.

`RunConfig` is what all tasks share; each task has a subclass with its own sections, listed in `RUNS`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import yaml
from pydantic import NonNegativeInt, PositiveInt

from albef.config import InitConfig, ObjectiveConfig
from pipeline.config.annotation_sections import (
    AlignmentObjective,
    AnnotationData,
    AnnotationValidation,
    ClassifierObjective,
    GroundingValidation,
    Nlvr2Objective,
    NoValidation,
    RetrievalObjective,
    RetrievalValidation,
    StartConfig,
    VqaData,
    VqaObjective,
    VqaValidation,
)
from pipeline.config.recipe import Problem
from pipeline.config.sections import (
    BatchConfig,
    CheckpointConfig,
    DataConfig,
    DeepSpeedConfig,
    LoadingConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    ValidationConfig,
    WatchConfig,
)
from samples.quote import quote

MAX_NAME = 100
"""Letters of a run's name, which becomes a folder."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run, resolved. `run.folder` writes it as config.yaml, which is itself a recipe.

    What has no default here differs between tasks: a subclass has the sections of its task.
    """

    command: ClassVar[str]
    """The command that trains it, between `python -m pipeline` and the recipe."""
    images_per_sample: ClassVar[int] = 1
    """Images of one sample of a micro-batch."""

    task: str
    """What is trained. `pretrain RECIPE` trains recipes of pretraining, `finetune TASK RECIPE` those of the others."""
    name: str = "run"
    """Name of the run, and of its folder under runs/. The default is the name of the recipe's file."""
    preset: Literal["fixed", "paper"] = "fixed"
    """paper: keep the known defects of the original, which docs/decisions.md names. fixed: repair them. A preset only
    changes defaults: recipe and flags override it."""
    seed: NonNegativeInt = 0
    """Seed of initial weights, order of samples, masks, negatives, augmentation and dropout."""
    epochs: PositiveInt = 30
    """Passes over the data."""
    max_steps: PositiveInt | None = None
    """Length of the run in optimizer steps, instead of epochs. The schedule ends there too."""
    model: ModelConfig = field(default_factory=ModelConfig)
    init: Any
    """Where the starting weights come from."""
    objective: Any
    """What is trained for. Every task's has `max_text_tokens`."""
    data: LoadingConfig
    batch: BatchConfig = field(default_factory=BatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LogConfig = field(default_factory=LogConfig)
    validation: Any
    """When and on what the model is scored during training. Every task's has `every_steps`."""
    watch: WatchConfig = field(default_factory=WatchConfig)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps or self.epochs * steps_per_epoch

    def with_text_tokens(self, number: int) -> Self:
        """The same with texts of at most this many tokens, for planning."""
        return dataclasses.replace(self, objective=dataclasses.replace(self.objective, max_text_tokens=number))

    def hash(self) -> str:
        """Sixteen hex digits that change with any value of the configuration."""
        return hashlib.sha256(json.dumps(to_dict(self), sort_keys=True).encode()).hexdigest()[:16]

    def mistakes(self) -> list[Problem]:
        """Mistakes that show only across sections."""
        problems = []
        if self.objective.max_text_tokens > self.model.max_text_positions:
            problems.append(
                Problem(
                    what=f"objective.max_text_tokens {self.objective.max_text_tokens} is more than "
                    f"model.max_text_positions {self.model.max_text_positions}",
                    hint=f"use max_text_tokens {self.model.max_text_positions} or less",
                )
            )
        if "/" in self.name or self.name in ("", ".", "..") or not self.name.isprintable() or len(self.name) > MAX_NAME:
            what = f"name '{quote(self.name)}' cannot name a folder"
            problems.append(Problem(what=what, hint="use letters, digits, - and _"))
        return problems


@dataclass(frozen=True, kw_only=True)
class PretrainingRun(RunConfig):
    """Pretraining on shards."""

    command: ClassVar[str] = "pretrain"

    task: str = "pretraining"
    init: InitConfig = field(default_factory=InitConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def mistakes(self) -> list[Problem]:
        """Also an objective without a loss."""
        if self.objective.itc or self.objective.itm or self.objective.mlm:
            return super().mistakes()
        return [
            *super().mistakes(),
            Problem(what="objective.itc, itm and mlm are all false", hint="train at least one loss"),
        ]


@dataclass(frozen=True, kw_only=True)
class ClassifierRun(RunConfig):
    """A classifier of images and texts, trained on annotation files."""

    init: StartConfig = field(default_factory=StartConfig)
    objective: ClassifierObjective = field(default_factory=ClassifierObjective)
    data: AnnotationData = field(default_factory=AnnotationData)
    validation: AnnotationValidation = field(default_factory=AnnotationValidation)


@dataclass(frozen=True, kw_only=True)
class EntailmentRun(ClassifierRun):
    """SNLI-VE: does an image entail a sentence, contradict it, or neither?"""

    command: ClassVar[str] = "finetune snli-ve"

    task: str = "snli-ve"


@dataclass(frozen=True, kw_only=True)
class Nlvr2Run(ClassifierRun):
    """NLVR2: is a statement true of two images?"""

    command: ClassVar[str] = "finetune nlvr2"
    images_per_sample: ClassVar[int] = 2

    task: str = "nlvr2"
    objective: Nlvr2Objective = field(default_factory=Nlvr2Objective)


LEAST_TEXTS = 3
"""Texts of a micro-batch of text assignment, where two other images are drawn for some of them."""


@dataclass(frozen=True, kw_only=True)
class AlignmentRun(RunConfig):
    """Text assignment on shards, the pretraining of NLVR2: which of two images has a text, or neither?"""

    command: ClassVar[str] = "finetune nlvr2-pretrain"

    task: str = "nlvr2-pretrain"
    init: StartConfig = field(default_factory=StartConfig)
    objective: AlignmentObjective = field(default_factory=AlignmentObjective)
    data: DataConfig = field(default_factory=DataConfig)
    validation: NoValidation = field(default_factory=NoValidation)

    def mistakes(self) -> list[Problem]:
        """Also a micro-batch without two other images, and a step that is not compiled."""
        problems = super().mistakes()
        if self.model.compile:
            what = f"model.compile is true, which {self.task} cannot do yet"
            problems.append(Problem(what=what, hint="set model.compile to false"))
        if self.batch.micro_batch_size < LEAST_TEXTS:
            what = f"batch.micro_batch_size is {self.batch.micro_batch_size}, and two other images are drawn for a text"
            problems.append(Problem(what=what, hint=f"use micro_batch_size {LEAST_TEXTS} or more"))
        return problems


@dataclass(frozen=True, kw_only=True)
class VqaRun(RunConfig):
    """VQA: a question about an image, answered by a decoder."""

    command: ClassVar[str] = "finetune vqa"

    task: str = "vqa"
    init: StartConfig = field(default_factory=StartConfig)
    objective: VqaObjective = field(default_factory=VqaObjective)
    data: VqaData = field(default_factory=VqaData)
    validation: VqaValidation = field(default_factory=VqaValidation)

    def mistakes(self) -> list[Problem]:
        """Also answers longer than the decoder's positions, and a validation without candidates."""
        problems = super().mistakes()
        if self.objective.max_answer_tokens > self.model.max_text_positions:
            what = f"objective.max_answer_tokens {self.objective.max_answer_tokens} is more than "
            what += f"model.max_text_positions {self.model.max_text_positions}"
            hint = f"use max_answer_tokens {self.model.max_text_positions} or less"
            problems.append(Problem(what=what, hint=hint))
        if self.validation.annotations and self.data.answers is None:
            what = "validation.annotations names questions, and data.answers no candidates to rank"
            problems.append(Problem(what=what, hint="name the list, such as answer_list.json, as data.answers"))
        return problems


@dataclass(frozen=True, kw_only=True)
class PairsRun(RunConfig):
    """Retrieval's losses on pairs of images and texts, where an image may have several texts."""

    init: StartConfig = field(default_factory=StartConfig)
    objective: RetrievalObjective = field(default_factory=RetrievalObjective)
    data: AnnotationData = field(default_factory=AnnotationData)


@dataclass(frozen=True, kw_only=True)
class RetrievalRun(PairsRun):
    """Retrieval: texts for an image and images for a text."""

    command: ClassVar[str] = "finetune retrieval"

    task: str = "retrieval"
    validation: RetrievalValidation = field(default_factory=RetrievalValidation)


@dataclass(frozen=True, kw_only=True)
class GroundingRun(PairsRun):
    """Weakly supervised grounding: retrieval's losses on phrases and images; where a phrase points is read off maps."""

    command: ClassVar[str] = "finetune grounding"

    task: str = "grounding"
    validation: GroundingValidation = field(default_factory=GroundingValidation)


RUNS: dict[str, type[RunConfig]] = {
    run.task: run for run in (PretrainingRun, EntailmentRun, AlignmentRun, Nlvr2Run, VqaRun, RetrievalRun, GroundingRun)
}
"""The configuration of each task, by the name that a recipe gives as `task`."""
DEFAULT_TASK = PretrainingRun.task
"""The task of a recipe that names none."""


def to_dict(run: RunConfig) -> dict[str, Any]:
    """Plain nested values, ready for YAML or JSON: every key, none resolved further; no section without keys."""
    values = json.loads(json.dumps(dataclasses.asdict(run)))
    return {name: value for name, value in values.items() if value != {}}


def to_yaml(run: RunConfig) -> str:
    """The whole configuration as a recipe that runs again as it is."""
    return yaml.safe_dump(to_dict(run), sort_keys=False, allow_unicode=True, width=120)
