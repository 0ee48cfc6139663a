"""Read the fp32 weights of a checkpoint of any ZeRO stage and world size, without a process group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from albef.config import AlbefConfig, ObjectiveConfig
from albef.errors import CheckpointError
from albef.model import AlbefForPretraining
from albef.weights.files import check_names, check_shapes, first_line
from albef.weights.tensor_file import read_tensors
from pipeline.checkpoints.deepspeed_files import UNREADABLE, read_parameters
from pipeline.checkpoints.layout import resolve_checkpoint
from pipeline.checkpoints.loading import read_model_config
from pipeline.checkpoints.meta import USE_ANOTHER, CheckpointMeta
from samples.quote import quote


@dataclass(frozen=True, kw_only=True)
class CheckpointWeights:
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


def load_weights(path: Path) -> CheckpointWeights:
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
    try:
        student = _read_student(folder, meta, expected)
        teacher = read_tensors(folder / "teacher.safetensors")
        queue = read_tensors(folder / "queue.safetensors")
    except UNREADABLE as error:
        raise CheckpointError(f"{folder} cannot be read: {quote(first_line(error))}", USE_ANOTHER) from error
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    averaged = {name: shape for name, shape in shapes.items() if name in teacher}
    _check("student", student, shapes, folder)
    _check("teacher", teacher, averaged, folder)
    return CheckpointWeights(
        path=folder, meta=meta, config=config, objective=objective, student=student, teacher=teacher, queue=queue
    )


def _check(what: str, weights: dict[str, Tensor], shapes: dict[str, torch.Size], folder: Path) -> None:
    source = f"the {what} in {folder}"
    missing = [name for name in shapes if name not in weights]
    check_names(missing=missing, unknown=[name for name in weights if name not in shapes], source=source)
    check_shapes(weights, shapes, source=source)
    if bad := next((name for name, tensor in weights.items() if not bool(tensor.isfinite().all())), None):
        raise CheckpointError(f"{source} is not finite: {bad}", f"training had diverged; {USE_ANOTHER}")


def _read_student(folder: Path, meta: CheckpointMeta, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    saved = read_parameters(folder, meta)
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    return {name: saved.whole(name, shape=shapes.get(name)).contiguous() for name in saved.pieces}
