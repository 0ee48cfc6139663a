"""The fp32 weights inside a checkpoint, of any ZeRO stage and world size, read without a process group."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from albef.config import AlbefConfig
from albef.errors import CheckpointError
from albef.model import AlbefForPretraining
from albef.objective import ObjectiveConfig
from albef.weight_files import check_names, check_shapes, first_line
from pipeline.checkpoint import (
    LATEST,
    META,
    CheckpointMeta,
    latest_name,
    read_model_config,
    verify_checkpoint,
)
from pipeline.deepspeed_files import ANOTHER, read_parameters

UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
)
"""What torch, safetensors and DeepSpeed raise for files that are not what they should be."""


@dataclass(frozen=True, kw_only=True)
class CheckpointWeights:
    """Everything of a checkpoint that outlives the training; fp32, on the CPU."""

    path: Path
    """The checkpoint's folder."""
    meta: CheckpointMeta
    config: AlbefConfig
    objective: ObjectiveConfig
    student: dict[str, Tensor]
    """Names as in AlbefForPretraining, all of them: what the optimizer holds, not its bf16 copy."""
    teacher: dict[str, Tensor]
    """The same names but the matching head and the temperature."""
    queue: dict[str, Tensor]
    """image, text, pointer."""


def find_one(path: Path) -> Path:
    """The checkpoint folder that `path` means: itself, or the one that `latest` names in a run or checkpoints folder.

    Raises: CheckpointError when there is none. An older one is never taken silently.
    """
    if (path / META).is_file() or path.name.startswith("step_"):
        folder = path
    elif not path.is_dir():
        raise CheckpointError(
            f"{path} does not exist" if not path.exists() else f"{path} is not a folder",
            "give a run folder, its checkpoints folder, or one of the step_* folders in it",
        )
    else:
        checkpoints = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        name = latest_name(checkpoints)
        if name is None:
            raise CheckpointError(
                f"{path} holds no finished checkpoint: there is no {checkpoints / LATEST}",
                "give a run folder, its checkpoints folder, or one of the step_* folders in it",
            )
        folder = checkpoints / name
    if not folder.is_dir():
        there = sorted(other.name for other in folder.parent.glob("step_*")) if folder.parent.is_dir() else []
        raise CheckpointError(
            f"checkpoint {folder} does not exist", f"there are {', '.join(there)}" if there else f"{ANOTHER}"
        )
    return folder


def load_weights(path: Path) -> CheckpointWeights:
    """Verify a checkpoint's checksums and read its weights.

    Args:
        path: see `find_one`.

    Raises: CheckpointError naming the file that is missing, truncated, changed or unreadable, or the weights that do
        not fit the model.
    """
    folder = find_one(path)
    meta = verify_checkpoint(folder)
    config, objective = read_model_config(folder)
    with torch.device("meta"):  # names and shapes only
        expected = AlbefForPretraining(config, objective).state_dict()
    try:
        student = _read_student(folder, meta, expected)
        teacher = load_file(folder / "teacher.safetensors")
        queue = load_file(folder / "queue.safetensors")
    except UNREADABLE as error:
        raise CheckpointError(f"{folder} cannot be read: {first_line(error)}", ANOTHER) from error
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
        raise CheckpointError(f"{source} is not finite: {bad}", f"training had diverged; {ANOTHER}")


def _read_student(folder: Path, meta: CheckpointMeta, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    saved = read_parameters(folder, meta)
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    return {name: saved.whole(name, shape=shapes.get(name)).contiguous() for name in saved.pieces}
