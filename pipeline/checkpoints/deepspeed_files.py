"""Read DeepSpeed's checkpoint files parameter by parameter: weights and AdamW's moments, of any number of ranks.

Needs neither DeepSpeed nor a process group; for export, and for resuming with another world size or ZeRO stage.
"""

from __future__ import annotations

import pickle
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from albef.errors import CheckpointError
from pipeline.checkpoints.meta import USE_ANOTHER, CheckpointMeta
from samples.quote import quote

MODEL_STATES = "mp_rank_00_model_states.pt"
"""DeepSpeed's file of the state that is not partitioned: at stages 0 to 2 every weight, in the compute precision."""
PARTITION = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
"""DeepSpeed's file of one rank's part of the optimizer."""
WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, by torch's names."""
UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)
"""Errors that torch, safetensors and DeepSpeed raise for damaged or foreign files."""


@dataclass(kw_only=True)
class SavedParameters:
    """The optimizer's fp32 weights, and its moments if requested, as pieces of mapped files."""

    pieces: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)
    """name -> `weight`, `exp_avg`, `exp_avg_sq` -> pieces in the parameter's order; one whole piece at stage 0."""
    adam_steps: float = 0.0
    """AdamW's count of steps, for its bias correction."""
    skipped_steps: int = 0
    """DeepSpeed's count of skipped steps."""

    def whole(self, name: str, key: str = WEIGHT, *, shape: torch.Size | None = None) -> Tensor:
        """One parameter's weight or moment, fp32, read now; of `shape` if it has as many elements, else flat.

        Moments are 0 if none were saved, because every step so far was skipped.
        """
        parts = self.pieces[name].get(key) or [torch.zeros_like(part) for part in self.pieces[name][WEIGHT]]
        tensor = (torch.cat([part.flatten() for part in parts]) if len(parts) > 1 else parts[0].clone()).float()
        return tensor.view(shape) if shape is not None and tensor.numel() == shape.numel() else tensor


def read_parameters(
    folder: Path, meta: CheckpointMeta, *, optimizer_names: Sequence[Sequence[str]] | None = None
) -> SavedParameters:
    """Map the files of a checkpoint; nothing large is read before `SavedParameters.whole`.

    Args:
        optimizer_names: names of each optimizer group's parameters, in its order. With it the moments are read too;
            without it only weights are. Stage 0 needs it because its file numbers the moments.

    Raises: CheckpointError for an unknown stage, a missing partition, or files that contradict themselves; UNREADABLE
        for damaged or foreign files.
    """
    if meta.zero_stage not in (0, 1, 2):
        raise CheckpointError(f"{folder} is of ZeRO stage {meta.zero_stage}", "stages 0, 1 and 2 can be read")
    if meta.zero_stage:
        return _partitioned(folder, meta, moments=optimizer_names is not None)
    return _whole(folder, meta, optimizer_names)


class _Fragment:
    """Replaces DeepSpeed's fragment_address: the position of a rank's piece of a weight in its partition."""

    numel: int
    start: int


class _LossScaler:
    """Replaces DeepSpeed's LossScaler, which is not needed here."""


STAND_INS: list[Any] = [
    (_Fragment, "deepspeed.utils.tensor_fragment.fragment_address"),
    (_LossScaler, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
]
"""Classes that DeepSpeed pickles beside tensors. With these replacements torch's safe loader reads its files, without
importing DeepSpeed and without running code from a checkpoint."""
FORBIDDEN = re.compile(r"GLOBAL (\S+)")
"""How torch names an object that its restricted unpickler rejects."""


def load_restricted(file: Path, classes: list[Any], *, mmap: bool = False) -> dict[str, Any]:
    """One of DeepSpeed's files on the CPU, by torch's restricted unpickler: tensors, plain values and `classes`.

    Args:
        classes: the classes that may occur, as `torch.serialization.safe_globals` takes them.

    Raises: CheckpointError when the file holds any other object, which is not run, or no dictionary; UNREADABLE when it
        is damaged or foreign.
    """
    try:
        with torch.serialization.safe_globals(classes):
            states = torch.load(file, map_location="cpu", mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as error:
        found = FORBIDDEN.search(str(error))
        what = f"holds an object that no checkpoint has: {quote(found[1])}" if found else "cannot be read: no pickle"
        raise CheckpointError(f"{file} {what}; nothing of it was run", USE_ANOTHER) from None
    if not isinstance(states, dict):
        raise CheckpointError(f"{file} cannot be read: it holds no dictionary", USE_ANOTHER)
    return states


def _load(folder: Path, meta: CheckpointMeta, name: str) -> dict[str, Any]:
    if name not in meta.files:
        raise CheckpointError(f"{folder / name} is not among the checkpoint's files", USE_ANOTHER)
    return load_restricted(folder / name, STAND_INS, mmap=True)


def _partitioned(folder: Path, meta: CheckpointMeta, *, moments: bool) -> SavedParameters:
    """Stages 1 and 2: a rank's file holds one flat partition per parameter group, and the position of each weight's
    piece in it. Unlike DeepSpeed's own zero_to_fp32 this also reads stage 1 in bf16 with fp32 accumulation, whose
    optimizer zero_to_fp32 rejects."""
    files = {int(match[1]): name for name in meta.files if (match := PARTITION.fullmatch(name))}
    if sorted(files) != list(range(meta.world_size)):
        raise CheckpointError(
            f"{folder} holds the partitions of {len(files)} ranks, it was saved by {meta.world_size}", USE_ANOTHER
        )
    found = SavedParameters(skipped_steps=_load(folder, meta, MODEL_STATES)["skipped_steps"])
    for rank in range(meta.world_size):
        state = _load(folder, meta, files[rank])["optimizer_state_dict"]
        base = state["base_optimizer_state"]
        groups = base["state"] if isinstance(base, dict) else dict(enumerate(base))  # a list if elastic_checkpoint
        for number, fragments in enumerate(state["param_slice_mappings"]):
            flat = {WEIGHT: state["single_partition_of_fp32_groups"][number]}
            if moments and groups.get(number):
                flat |= {key: groups[number][key] for key in MOMENTS}
                found.adam_steps = float(groups[number]["step"])
            for name, fragment in fragments.items():
                for key, partition in flat.items():
                    piece = partition[fragment.start : fragment.start + fragment.numel]
                    found.pieces.setdefault(name, {}).setdefault(key, []).append(piece)
    return found


def _whole(folder: Path, meta: CheckpointMeta, optimizer_names: Sequence[Sequence[str]] | None) -> SavedParameters:
    """Stage 0: every weight is in one file; in bf16 the fp32 weights are the optimizer's, which have no names."""
    states = _load(folder, meta, MODEL_STATES)
    module: dict[str, Tensor] = states["module"]
    saved_optimizer: dict[str, Any] = states.get("optimizer") or {}
    exact = module
    if any(tensor.dtype != torch.float32 for tensor in module.values()):
        if "fp32_groups" not in saved_optimizer:
            raise CheckpointError(
                f"{folder / MODEL_STATES} holds no fp32 weights", "it was written by another version of DeepSpeed"
            )
        exact = _named(saved_optimizer["fp32_groups"], module, folder)
    found = SavedParameters(
        pieces={name: {WEIGHT: [tensor]} for name, tensor in exact.items()}, skipped_steps=states["skipped_steps"]
    )
    if optimizer_names is not None:
        state = saved_optimizer.get("optimizer_state_dict", saved_optimizer)["state"]
        for number, name in enumerate(name for group in optimizer_names for name in group):
            if not state.get(number):
                continue
            for key in MOMENTS:
                found.pieces[name][key] = [state[number][key]]
            found.adam_steps = float(state[number]["step"])
    return found


def _named(groups: list[list[Tensor]], module: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The optimizer's fp32 weights by name. The file has no names for them, but each group is in the model's order. So
    each name takes the first of the groups' next weights that rounds to the model's own weight to the bit."""
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
                f"the file is inconsistent; {USE_ANOTHER}",
            )
    return named
