"""Grounding for the commands."""

from __future__ import annotations

from pipeline.tasks.grounding.task import Grounding
from pipeline.tasks.retrieval.finetuning.maker import maker_for

GROUNDING = maker_for(Grounding)
