"""Resume from a checkpoint with another number of ranks, another ZeRO stage or another precision.

DeepSpeed loads its files only into the layout that wrote them. Its universal format needs a conversion pass that writes
the whole state again, and does not support stage 0. But the state is the same in every layout: for each parameter an
fp32 weight and AdamW's two moments, and one count of steps. So they are read parameter by parameter, and each rank
takes the pieces that its own layout holds (docs/resume.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints.deepspeed_files import MOMENTS, WEIGHT, SavedParameters, read_parameters
from pipeline.checkpoints.meta import CheckpointMeta


@torch.no_grad()
def load_into_engine(engine: Any, folder: Path, meta: CheckpointMeta) -> None:
    """Load weights, moments and step counts from a checkpoint of any layout into an engine.

    Args:
        engine: a DeepSpeed engine of ZeRO stage 0, 1 or 2, fp32 or bf16, that has not taken a step yet. Every rank
            calls this; nothing is communicated.
        folder: the checkpoint, verified.

    Raises: CheckpointError when the files contradict themselves or do not fit the model.
    """
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    groups = _parameters_by_group(engine)
    saved = read_parameters(folder, meta, optimizer_names=[[names[id(p)] for p in group] for group in groups])
    if engine.zero_optimization():
        _fill_partitions(engine, saved)
    else:
        _fill_whole(engine, groups, names, saved)
    engine.global_steps = meta.step
    engine.global_samples = meta.samples_seen
    engine.skipped_steps = saved.skipped_steps


def _parameters_by_group(engine: Any) -> list[list[Tensor]]:
    """The module's parameters in the optimizer's groups and order; DeepSpeed's wrappers replace them in the groups."""
    optimizer = engine.optimizer
    for attribute in ("bit16_groups", "bf16_groups", "fp16_groups"):
        if hasattr(optimizer, attribute):
            return getattr(optimizer, attribute)
    return [group["params"] for group in optimizer.param_groups]


def _fill_partitions(engine: Any, saved: SavedParameters) -> None:
    """Stages 1 and 2: one flat fp32 partition per group on each rank; DeepSpeed maps each parameter's piece to it."""
    client = engine.optimizer.optimizer
    partitions = [group["params"][0] for group in client.param_groups]
    flat = {WEIGHT: partitions} | {key: [torch.zeros_like(partition) for partition in partitions] for key in MOMENTS}
    for name, parameter in engine.module.named_parameters():
        weight = saved.whole(name, shape=parameter.shape)
        parameter.copy_(weight)
        mapping = parameter._hp_mapping
        if mapping is None:  # it is in other ranks' partitions
            continue
        here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
        for key, of_groups in flat.items():
            whole = weight if key == WEIGHT else saved.whole(name, key)
            piece = whole.flatten()[there.start : there.start + there.numel]
            of_groups[mapping.param_group_index][here.start : here.start + here.numel].copy_(piece)
    _fill_state(
        client, [{key: flat[key][number] for key in MOMENTS} for number in range(len(partitions))], saved.adam_steps
    )


def _fill_whole(engine: Any, groups: list[list[Tensor]], names: dict[int, str], saved: SavedParameters) -> None:
    """Stage 0: AdamW updates the parameters themselves, or in bf16 an fp32 copy of each."""
    optimizer = engine.optimizer
    in_order = [parameter for group in groups for parameter in group]
    exact = (
        [twin for group in optimizer.fp32_groups for twin in group] if hasattr(optimizer, "fp32_groups") else in_order
    )
    moments = []
    for parameter, stepped in zip(in_order, exact, strict=True):
        name = names[id(parameter)]
        weight = saved.whole(name, shape=parameter.shape)
        parameter.copy_(weight)
        stepped.copy_(weight)
        moments.append({key: saved.whole(name, key, shape=parameter.shape) for key in MOMENTS})
    _fill_state(getattr(optimizer, "optimizer", optimizer), moments, saved.adam_steps)


def _fill_state(client: torch.optim.Optimizer, moments: list[dict[str, Tensor]], adam_steps: float) -> None:
    """Load the moments and the step count into torch's AdamW by its own load_state_dict."""
    state = {number: {"step": torch.tensor(adam_steps), **tensors} for number, tensors in enumerate(moments)}
    client.load_state_dict({"state": state, "param_groups": client.state_dict()["param_groups"]})
