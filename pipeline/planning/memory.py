"""What a rank's memory goes to, estimated from shapes alone: nothing is allocated, no GPU is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config.run_config import RunConfig
from pipeline.engine.ds_config import ResolvedDeepSpeed
from pipeline.planning.flops import sketched_lane
from pipeline.task import Task
from pipeline.task_maker import TaskMaker


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one rank's device."""

    parameters: int
    """Of the model that is trained; a count, not bytes."""
    weights: int
    gradients: int
    optimizer: int
    """AdamW's two moments, and the fp32 master weights where DeepSpeed keeps them."""
    beside: Mapping[str, int]
    """What the task keeps beside the engine, by name."""
    activations: int
    """What autograd keeps of one lane between forward and backward. Counted with whole attention matrices, which fused
    attention kernels do not keep, and without the kernels' own workspace."""

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part."""
        engine = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}
        return {**engine, **self.beside, "activations": self.activations}

    @property
    def total(self) -> int:
        """All bytes together."""
        return sum(self.parts.values())


def estimate_memory(run: RunConfig, ds: ResolvedDeepSpeed, maker: TaskMaker, world_size: int) -> MemoryEstimate:
    """Bytes on one of `world_size` ranks, from the modules' shapes and DeepSpeed 0.19's layout of each stage."""
    sketch = maker.sketch(run, ds.compute_dtype)
    parameters = sum(parameter.numel() for parameter in sketch.model.parameters())
    shares = world_size if ds.stage else 1  # stages 1 and 2 share the optimizer's state
    half = ds.precision == "bf16"
    # fp32 master weights: not at stage 0 in fp32, where torch's AdamW works on the weights themselves
    master = 4 if half or ds.stage else 0
    if ds.stage == 2:
        gradients = 4 * parameters // world_size + (2 if half else 4) * parameters
    else:
        gradients = (2 + 4 if half else 4) * parameters  # bf16 as it comes, and fp32 for the step
    if ds.stage == 2 or (ds.stage == 1 and not half):  # stage 1 in bf16 is another optimizer, without a staging buffer
        gradients += 4 * ds.config["zero_optimization"].get("reduce_bucket_size", 500_000_000)
    return MemoryEstimate(
        parameters=parameters,
        weights=(2 if half else 4) * parameters,
        gradients=gradients,
        optimizer=(8 + master) * parameters // shares,
        beside=maker.bytes_beside(sketch),
        activations=saved_bytes(sketch, maker.noise(run, run.batch.micro_batch_size)),
    )


def saved_bytes(sketch: Task, noise: Any) -> int:
    """Bytes autograd saves in the forward of one lane, each storage once, the model's parameters left out.

    Args:
        sketch, noise: as for `sketched_lane`.
    """
    known = {parameter.untyped_storage()._cdata for parameter in sketch.model.parameters()}
    kept: list[Tensor] = []  # held, so that no storage's address is used twice
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known.add(storage._cdata)
            kept.append(tensor)
            total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sketched_lane(sketch, noise)
    return total
