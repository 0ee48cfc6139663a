"""How `pipeline replay` takes a lane of pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from albef.errors import DataError
from albef.inputs.batch import PretrainBatch
from pipeline.tasks.pretraining.task import Pretraining
from pipeline.tasks.pretraining.weights import load_weights
from pipeline.watch.replay import Replayable
from pipeline.watch.skipped_step_dump import Dump
from samples.quote import quote


def replayable(checkpoint: Path, dump: Dump, device: torch.device, compute_dtype: torch.dtype) -> Replayable:
    """Student, teacher and queue of a checkpoint, with the distillation weight of the skipped step.

    Raises: CheckpointError when the checkpoint cannot be read, DataError when the dump is of no step of pretraining.
    """
    alpha = dump.facts.get("alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        what = f"{dump.path} cannot be read: rank_0.json: alpha is {quote(alpha)}"
        raise DataError(what, "replay another skipped step of the run")
    weights = load_weights(checkpoint)
    task = Pretraining.of_weights(weights, alpha=alpha, device=device, compute_dtype=compute_dtype)
    return Replayable(
        task=task,
        checkpoint=weights.path,
        meta=weights.meta,
        modules={"student": task.model, "teacher": task.teacher.model},
        batch_of=batch_of,
    )


def batch_of(fields: Mapping[str, Any]) -> PretrainBatch:
    """A lane's batch from a dump."""
    return PretrainBatch(**fields)
