"""The fp32 weights inside a checkpoint, of any ZeRO stage and world size, read without a process group."""

from __future__ import annotations

import pickle
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    read_model_config,
    verify_checkpoint,
)

MODEL_STATES = "mp_rank_00_model_states.pt"
"""DeepSpeed's file of what is not partitioned: at stages 0 to 2 every weight, in the compute precision."""
PARTITION = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
"""DeepSpeed's file of what one rank holds of the optimizer."""
ANOTHER = "use another checkpoint of the run"
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
        if not (checkpoints / LATEST).is_file():
            raise CheckpointError(
                f"{path} holds no finished checkpoint: there is no {checkpoints / LATEST}",
                "give a run folder, its checkpoints folder, or one of the step_* folders in it",
            )
        folder = checkpoints / (checkpoints / LATEST).read_text().strip()
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
    if meta.zero_stage not in (0, 1, 2):
        raise CheckpointError(f"{folder} is of ZeRO stage {meta.zero_stage}", "stages 0, 1 and 2 can be exported")
    found = _partitioned(folder, meta.world_size, expected) if meta.zero_stage else _whole(folder)
    return {name: tensor.float().contiguous() for name, tensor in found.items()}


class _Fragment:
    """Stands in for DeepSpeed's fragment_address: where a rank's piece of a weight lies in its partition."""

    numel: int
    start: int


class _LossScaler:
    """Stands in for DeepSpeed's, which is not needed here."""


STAND_INS: list[Any] = [
    (_Fragment, "deepspeed.utils.tensor_fragment.fragment_address"),
    (_LossScaler, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
]
"""What DeepSpeed pickles beside tensors. With these torch's safe loader reads its files: without importing DeepSpeed,
and without running code from a checkpoint."""


def _partitioned(folder: Path, world_size: int, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stages 1 and 2: the optimizer's fp32 weights, put together from the partitions of all ranks.

    A rank's file holds one flat partition per parameter group and says which piece of which weight lies where. Unlike
    DeepSpeed's own zero_to_fp32 this also reads stage 1 in bf16 with fp32 accumulation, whose optimizer it refuses.
    """
    files = {int(match[1]): path for path in folder.iterdir() if (match := PARTITION.fullmatch(path.name))}
    if sorted(files) != list(range(world_size)):
        raise CheckpointError(
            f"{folder} holds the partitions of ranks {sorted(files)}, it was saved by {world_size}", ANOTHER
        )
    pieces: dict[str, list[Tensor]] = {name: [] for name in expected}
    for rank in range(world_size):
        with torch.serialization.safe_globals(STAND_INS):
            state = torch.load(files[rank], map_location="cpu", mmap=True, weights_only=True)["optimizer_state_dict"]
        partitions, fragments = state["single_partition_of_fp32_groups"], state["param_slice_mappings"]
        for partition, places in zip(partitions, fragments, strict=True):
            for name, place in places.items():
                # cloned, because the rest of the file (the optimizer's moments) is mapped, not read
                pieces.setdefault(name, []).append(partition[place.start : place.start + place.numel].clone())
    whole = {name: torch.cat(parts) for name, parts in pieces.items() if parts}
    return {
        name: flat.view(expected[name].shape) if name in expected and len(flat) == expected[name].numel() else flat
        for name, flat in whole.items()
    }


def _whole(folder: Path) -> dict[str, Tensor]:
    """Stage 0: every weight is in one file; in bf16 the exact ones are the optimizer's, which have no names."""
    states = torch.load(folder / MODEL_STATES, map_location="cpu", weights_only=True)
    module: dict[str, Tensor] = states["module"]
    if all(tensor.dtype == torch.float32 for tensor in module.values()):
        return module
    groups = (states.get("optimizer") or {}).get("fp32_groups")
    if groups is None:
        raise CheckpointError(
            f"{folder / MODEL_STATES} holds no fp32 weights", "it was written by another version of DeepSpeed"
        )
    return _named(groups, module, folder)


def _named(groups: list[list[Tensor]], module: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The optimizer's fp32 weights by name. They carry none; each group has its weights in the model's order, so each
    name takes the first of the groups' next ones that rounds to the model's own weight to the bit."""
    waiting = [deque(group) for group in groups]
    named: dict[str, Tensor] = {}
    for name, rounded in module.items():
        for group in waiting:
            if group and group[0].shape == rounded.shape and torch.equal(group[0].to(rounded.dtype), rounded):
                named[name] = group.popleft()
                break
        else:
            raise CheckpointError(
                f"{folder / MODEL_STATES}: {name} is not the rounding of any of the optimizer's fp32 weights",
                f"the file is inconsistent; {ANOTHER}",
            )
    return named
