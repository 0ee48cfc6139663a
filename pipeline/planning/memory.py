"""What a rank's memory goes to, estimated from shapes alone: nothing is allocated, no GPU is asked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.batch import PretrainBatch, TeacherTargets
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.queue import FeatureQueue
from pipeline.config.run_config import RunConfig
from pipeline.engine.ds_config import ResolvedDeepSpeed
from pipeline.planning.flops import random_batch


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one rank's device."""

    student_parameters: int
    """A count, not bytes."""
    teacher_parameters: int
    weights: int
    gradients: int
    optimizer: int
    """AdamW's two moments, and the fp32 master weights where DeepSpeed keeps them."""
    teacher: int
    queue: int
    activations: int
    """What autograd keeps of one lane between forward and backward. Counted with whole attention matrices, which fused
    attention kernels do not keep, and without the kernels' own workspace."""

    @property
    def total(self) -> int:
        """All bytes together."""
        parts = (self.weights, self.gradients, self.optimizer, self.teacher, self.queue, self.activations)
        return sum(parts)


def estimate_memory(run: RunConfig, ds: ResolvedDeepSpeed, world_size: int) -> MemoryEstimate:
    """Bytes on one of `world_size` ranks, from the modules' shapes and DeepSpeed 0.19's layout of each stage."""
    with torch.device("meta"):
        student = AlbefForPretraining(run.model, run.objective)
    teacher = MomentumTeacher(student, device="meta")
    parameters = sum(parameter.numel() for parameter in student.parameters())
    averaged = sum(tensor.numel() for tensor in teacher.state_dict().values())
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
        student_parameters=parameters,
        teacher_parameters=averaged,
        weights=(2 if half else 4) * parameters,
        gradients=gradients,
        optimizer=(8 + master) * parameters // shares,
        teacher=(4 + 2 if half else 4) * averaged,
        queue=2 * run.objective.queue_size * run.model.embed_dim * 4,
        activations=saved_bytes(
            run.model, run.objective, batch_size=run.batch.micro_batch_size, dtype=ds.compute_dtype
        ),
    )


def saved_bytes(config: AlbefConfig, objective: ObjectiveConfig, *, batch_size: int, dtype: torch.dtype) -> int:
    """Bytes autograd saves in one forward of the student, each storage once, its parameters left out.

    Counted over the real modules on the meta device, with texts of full length.
    """
    with torch.device("meta"):
        student = AlbefForPretraining(config, objective)
    student = student.to(dtype).train()
    queue = FeatureQueue(objective.queue_size, config.embed_dim, seed=0, device="meta")
    batch = random_batch(config, objective, batch_size=batch_size, device="meta")
    targets = _targets(config, objective, batch, batch_size)
    known = {parameter.untyped_storage()._cdata for parameter in student.parameters()}
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
        student(batch, targets, queue, objective.alpha)
    return total


def _targets(config: AlbefConfig, objective: ObjectiveConfig, batch: PretrainBatch, batch_size: int) -> TeacherTargets:
    """Targets of the right shape; what they hold does not matter here."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    candidates = batch_size + objective.queue_size
    return TeacherTargets(
        image_feat=empty(batch_size, config.embed_dim),
        text_feat=empty(batch_size, config.embed_dim),
        itc_i2t=empty(batch_size, candidates),
        itc_t2i=empty(batch_size, candidates),
        mlm_probs=empty(len(batch.mlm_positions), config.vocab_size),
    )
