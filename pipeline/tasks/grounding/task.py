"""Grounding as a task: retrieval's losses on phrases and images, as in the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.config.run_config import GroundingRun
from pipeline.data.annotations.entries import Format
from pipeline.tasks.grounding.annotations import PAIRS
from pipeline.tasks.retrieval.finetuning.task import Retrieval


@dataclass(kw_only=True)
class Grounding(Retrieval):
    """The parts of fine-tuning for grounding. A `pipeline.task.Task`."""

    name: ClassVar[str] = GroundingRun.task
    form: ClassVar[Format] = PAIRS
