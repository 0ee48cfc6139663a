"""How `pipeline replay` takes a lane of a fine-tuning: the task that planning sketches, with a checkpoint's weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from albef.config import AlbefConfig
from albef.errors import CheckpointError, ConfigError, DataError
from albef.objective.queue import FeatureQueue
from albef.weights.files import load_strictly
from pipeline.checkpoints.layout import MODEL_CONFIG, resolve_checkpoint
from pipeline.checkpoints.meta import USE_ANOTHER
from pipeline.checkpoints.weights import read_model, read_shape, read_state
from pipeline.config.run_config import RunConfig
from pipeline.config.sections import ModelConfig
from pipeline.task_maker import TaskMaker
from pipeline.watch.replay import Replayable
from pipeline.watch.skipped_step_dump import Dump
from samples.quote import quote


def replayable(
    blank: RunConfig,
    maker: TaskMaker,
    checkpoint: Path,
    dump: Dump,
    device: torch.device,
    compute_dtype: torch.dtype,
) -> Replayable:
    """The task of a checkpoint, with the distillation weight of the skipped step.

    Args:
        blank: any configuration of the task; the checkpoint has the model's shape and the objective.
        maker: the task's.

    Raises: CheckpointError when the checkpoint cannot be read, DataError when the dump is of no step of the task.
    """
    folder, meta = resolve_checkpoint(checkpoint)
    values = read_shape(folder)
    try:
        model = ModelConfig(**AlbefConfig.from_dict(values["model"]).to_dict())
        objective = type(blank.objective)(**values["objective"])
    except (ValueError, LookupError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{folder / MODEL_CONFIG} cannot be read: {quote(error)}", USE_ANOTHER) from None
    if isinstance(alpha := dump.facts.get("alpha"), int | float) and hasattr(objective, "alpha"):
        objective = dataclasses.replace(objective, alpha=float(alpha))
    run = dataclasses.replace(blank, model=model, objective=objective)
    task: Any = maker.sketch(run, torch.float32)  # its alpha is the objective's in every step
    student = task.model.to_empty(device=device)
    shapes = {name: weight.shape for name, weight in student.state_dict().items()}
    load_strictly(student, read_model(folder, meta, shapes), source=str(folder))
    beside = [name for name in ("teacher", "queue") if getattr(task, name, None) is not None]
    state = read_state(folder, meta, beside)
    modules = {"student": student}
    if "teacher" in beside:
        task.teacher = type(task.teacher)(student, device=device, compute_dtype=compute_dtype)
        task.teacher.load_state_dict(state["teacher"])
        modules["teacher"] = task.teacher.model
    if "queue" in beside:
        rows = len(state["queue"]["image"])
        task.queue = FeatureQueue(rows, model.embed_dim, seed=0, device=device, with_ids=True)
        task.queue.load_state_dict(state["queue"])
    student.to(compute_dtype)
    batch = type(maker.noise(run, 1))

    def batch_of(fields: Any) -> Any:
        try:
            return batch(**fields)
        except TypeError:
            what = f"{dump.path} is of another task than {folder}: it has {', '.join(sorted(fields))}"
            raise DataError(what, "give --checkpoint of the run that was skipped") from None

    return Replayable(task=task, checkpoint=folder, meta=meta, modules=modules, batch_of=batch_of)
