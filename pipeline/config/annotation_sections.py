"""The sections of the tasks after pretraining: data, starting weights, objective, validation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from albef.config import DistillConfig, Nlvr2Config, RetrievalConfig, VqaConfig
from pipeline.config.sections import AugmentConfig, LoadingConfig, ValidationSchedule


@dataclass(frozen=True, kw_only=True)
class AnnotationData(LoadingConfig):
    """What to fine-tune on, and how to read it."""

    annotations: tuple[str, ...] = ()
    """The task's JSON lists, in the official format (docs/finetuning.md). Their order fixes the samples' order."""
    images: tuple[str, ...] = ()
    """Folders, and zips that need not be unpacked, that the images' names in the lists start from; searched in order.
    Before them, manifests of shards, or folders that hold one, in which a name is a sample's key or its URL."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random augmentation of the images."""
    max_words: PositiveInt = 30
    """Cut texts to this many words, before the tokenizer cuts them to `objective.max_text_tokens`."""


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """The trained model to start from."""

    model: str | None = None
    """The folder of an exported ALBEF, or an official .pth: of pretraining, of this task or of another one. null starts
    from random weights."""


@dataclass(frozen=True, kw_only=True)
class ClassifierObjective(DistillConfig):
    """The objective of a classifier of images and texts: cross-entropy, with momentum distillation."""

    max_text_tokens: PositiveInt = 64
    """Cut texts to this many tokens, [CLS] included. The original cuts to 30 words only, which rarely are more tokens.
    """


@dataclass(frozen=True, kw_only=True)
class Nlvr2Objective(Nlvr2Config, ClassifierObjective):
    """The objective of NLVR2: cross-entropy on true and false, with momentum distillation."""


@dataclass(frozen=True, kw_only=True)
class AnnotationValidation(ValidationSchedule):
    """Scores on the task's validation file during training: before the first step, every N steps and after the last."""

    annotations: tuple[str, ...] = ()
    """JSON lists as in data.annotations. Without one there is no validation."""
    images: tuple[str, ...] = ()
    """As data.images; without an entry these are taken."""
    majority_after_steps: NonNegativeInt = 1_000
    """From this step on, warn when the model is right no more often than one that always gives the most frequent
    answer: its starting weights may not have been loaded. 0 never warns."""


@dataclass(frozen=True, kw_only=True)
class VqaData(AnnotationData):
    """Questions with their answers, and the candidates."""

    answers: str | None = None
    """JSON list of the candidate answers, which validation and `evaluate` rank. Its fingerprint is kept with the model,
    and a run resumes with no other list. Training reads no candidates: other answers are learned too."""


@dataclass(frozen=True, kw_only=True)
class VqaObjective(VqaConfig):
    """The objective of visual question answering: the likelihood of the people's answers, by their frequency."""

    max_text_tokens: PositiveInt = 25
    """Cut questions to this many tokens, [CLS] included."""
    max_answer_tokens: Annotated[int, Field(ge=3)] = 32
    """Cut answers to this many tokens, [CLS] and [SEP] included. The original does not cut."""


@dataclass(frozen=True, kw_only=True)
class VqaValidation(AnnotationValidation):
    """The official accuracy of the student's answers during training: before the first step, every N steps and after
    the last."""

    k_test: PositiveInt = 128
    """Candidates of a question that are read whole, those whose first tokens are the likeliest; at most all."""


@dataclass(frozen=True, kw_only=True)
class RetrievalObjective(RetrievalConfig):
    """The objective of retrieval: contrastive and matching loss, with momentum distillation."""

    max_text_tokens: PositiveInt = 30
    """Cut texts to this many tokens, [CLS] included, in training and validation. The original cuts at 30 in evaluation,
    and in training to 30 words only."""


@dataclass(frozen=True, kw_only=True)
class RetrievalValidation(ValidationSchedule):
    """Retrieval among all images and texts of lists during training: before the first step, every N steps and after the
    last."""

    annotations: tuple[str, ...] = ()
    """JSON lists as in data.annotations. Without one there is no validation."""
    images: tuple[str, ...] = ()
    """As data.images; without an entry these are taken."""
    k_test: PositiveInt = 128
    """Candidates per query that the matching head re-ranks; its cost grows in proportion."""


@dataclass(frozen=True, kw_only=True)
class AlignmentObjective:
    """The objective of text assignment: cross-entropy on which of two images has the text, or neither."""

    max_text_tokens: PositiveInt = 25
    """Cut texts to this many tokens, [CLS] included."""


@dataclass(frozen=True, kw_only=True)
class NoValidation:
    """Of a task whose only scores are those of its lanes."""

    every_steps: ClassVar[int] = 0


@dataclass(frozen=True, kw_only=True)
class GroundingValidation(ValidationSchedule):
    """Boxes by Grad-CAM of the student during training: before the first step, every N steps and after the last."""

    annotations: tuple[str, ...] = ()
    """JSON lists with boxes, as `evaluate grounding` takes them (docs/grounding.md). Without one there is none."""
    images: tuple[str, ...] = ()
    """As data.images; without an entry these are taken."""
    dets: str | None = None
    """A detector's boxes, such as dets.json. null takes the boxes of the maps themselves."""
    by: Literal["itm", "itc"] = "itm"
    """Maps of cross-attention by matching, or of the image encoder by similarity, each of the paper's layer."""
