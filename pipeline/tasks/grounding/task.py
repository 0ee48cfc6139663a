"""Grounding as a task: retrieval's losses on phrases and images, validated by boxes of Grad-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import GroundingRun, PairsRun
from pipeline.data.annotations.entries import Format
from pipeline.engine.distributed import World
from pipeline.tasks.grounding.annotations import PAIRS
from pipeline.tasks.grounding.validation import GroundingValidator
from pipeline.tasks.retrieval.finetuning.task import Retrieval
from pipeline.tasks.retrieval.validation import Scorer


@dataclass(kw_only=True)
class Grounding(Retrieval):
    """The parts of fine-tuning for grounding. A `pipeline.task.Task`."""

    name: ClassVar[str] = GroundingRun.task
    form: ClassVar[Format] = PAIRS

    @classmethod
    def validator_of(cls, run: PairsRun, world: World, tokenizer: AlbefTokenizer) -> Scorer:
        """The validation of a run; without annotations it has no phrases. Raises: DataError."""
        assert isinstance(run, GroundingRun)
        return GroundingValidator(run, world, tokenizer)
