"""A checkpoint of pretraining after training: shape, student, teacher and queue, without engine or process group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from albef.config import AlbefConfig, ObjectiveConfig
from albef.errors import CheckpointError, ConfigError
from albef.model import AlbefForPretraining
from pipeline.checkpoints.layout import MODEL_CONFIG, resolve_checkpoint
from pipeline.checkpoints.meta import USE_ANOTHER, CheckpointMeta
from pipeline.checkpoints.weights import check_weights, read_model, read_shape, read_state
from samples.quote import quote


@dataclass(frozen=True, kw_only=True)
class PretrainingWeights:
    """The parts of a checkpoint that matter after training; fp32, on the CPU."""

    path: Path
    """The checkpoint's folder."""
    meta: CheckpointMeta
    config: AlbefConfig
    objective: ObjectiveConfig
    student: dict[str, Tensor]
    """All names of AlbefForPretraining: the optimizer's fp32 weights, not the bf16 copy."""
    teacher: dict[str, Tensor]
    """The same names without the matching head and the temperature."""
    queue: dict[str, Tensor]
    """image, text, pointer."""


def load_weights(path: Path) -> PretrainingWeights:
    """Verify a checkpoint's checksums and read its weights.

    Args:
        path: a step_* folder, or a run or checkpoints folder (`resolve_checkpoint`).

    Raises: CheckpointError naming the file that is missing, truncated, changed or unreadable, or the weights that do
        not fit the model.
    """
    folder, meta = resolve_checkpoint(path)
    config, objective = read_model_config(folder)
    with torch.device("meta"):  # names and shapes only
        expected = AlbefForPretraining(config, objective).state_dict()
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    student = read_model(folder, meta, shapes)
    state = read_state(folder, meta, ("teacher", "queue"))
    averaged = {name: shape for name, shape in shapes.items() if name in state["teacher"]}
    check_weights(state["teacher"], averaged, source=f"the teacher in {folder}")
    return PretrainingWeights(path=folder, meta=meta, config=config, objective=objective, student=student, **state)


def read_model_config(folder: Path) -> tuple[AlbefConfig, ObjectiveConfig]:
    """The model's shape and objective, as saved beside the weights.

    Raises: CheckpointError when the file is missing, damaged or describes no model.
    """
    values = read_shape(folder)
    try:
        return AlbefConfig.from_dict(values["model"]), ObjectiveConfig(**values["objective"])
    except (ValueError, LookupError, TypeError, ArithmeticError, ConfigError) as error:
        raise CheckpointError(f"{folder / MODEL_CONFIG} cannot be read: {quote(error)}", USE_ANOTHER) from None
