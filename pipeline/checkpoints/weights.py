"""Read a checkpoint of any task, ZeRO stage and world size after training, without a process group.

A task reads its shape first, which says what weights the model has, then the weights and what it kept beside the
engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef.errors import CheckpointError
from albef.weights.files import check_names, check_shapes, first_line
from albef.weights.tensor_file import read_tensors
from pipeline.checkpoints.deepspeed_files import UNREADABLE, read_parameters
from pipeline.checkpoints.layout import MODEL_CONFIG, state_file
from pipeline.checkpoints.meta import USE_ANOTHER, CheckpointMeta
from samples.json_text import parse_json
from samples.plain_file import read_plain
from samples.quote import quote

MAX_CONFIG_BYTES = 1 << 20


def read_shape(folder: Path) -> dict[str, Any]:
    """The `Task.shape` that was saved beside the weights.

    Raises: CheckpointError when the file is missing or damaged.
    """
    file = folder / MODEL_CONFIG
    try:
        shape = parse_json(read_plain(file, MAX_CONFIG_BYTES))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {quote(error)}", USE_ANOTHER) from None
    if not isinstance(shape, dict):
        raise CheckpointError(f"{file} cannot be read: it holds no object", USE_ANOTHER)
    return shape


def read_model(folder: Path, meta: CheckpointMeta, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The model's weights by parameter: the optimizer's fp32 weights, not the bf16 copy; on the CPU.

    Args:
        folder: the checkpoint, verified, and its `meta`.
        shapes: of every parameter of the model. DeepSpeed's partitions are flat.

    Raises: CheckpointError for files that cannot be read, and for weights that do not fit `shapes` or are not finite.
    """
    try:
        saved = read_parameters(folder, meta)
        weights = {name: saved.whole(name, shape=shapes.get(name)).contiguous() for name in saved.pieces}
    except UNREADABLE as error:
        raise _unreadable(folder, error) from error
    check_weights(weights, shapes, source=f"the model in {folder}")
    return weights


def read_state(folder: Path, meta: CheckpointMeta, names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Parts of the `Task.state` that was saved, by name; on the CPU. Only files that `meta` lists are read.

    Raises: CheckpointError for a part that is missing, or cannot be read.
    """
    if missing := [name for name in names if state_file(name) not in meta.files]:
        raise CheckpointError(f"{folder} holds no {' and no '.join(missing)}", USE_ANOTHER)
    try:
        return {name: read_tensors(folder / state_file(name)) for name in names}
    except UNREADABLE as error:
        raise _unreadable(folder, error) from error


def check_weights(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], *, source: str) -> None:
    """Raise a CheckpointError unless the names and shapes are these, and every value is finite."""
    missing = [name for name in shapes if name not in weights]
    check_names(missing=missing, unknown=[name for name in weights if name not in shapes], source=source)
    check_shapes(weights, shapes, source=source)
    if bad := next((name for name, tensor in weights.items() if not bool(tensor.isfinite().all())), None):
        raise CheckpointError(f"{source} is not finite: {bad}", f"training had diverged; {USE_ANOTHER}")


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{folder} cannot be read: {quote(first_line(error))}", USE_ANOTHER)
