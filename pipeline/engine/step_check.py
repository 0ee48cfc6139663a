"""Whether a step may move the weights: losses and gradient are looked at on all ranks before the optimizer is.

DeepSpeed by itself skips some steps and not others: not at stage 0 in fp32, and not for a loss alone. Its caller learns
of a skip too late to spare what the task keeps beside the engine. So the decision is taken here, the same way at every
stage and precision, from gradients that are summed and averaged but not yet clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor

from albef.kernels.packs import packed
from pipeline.engine.distributed import World

PIECE = 1 << 21
"""Elements whose squares are summed at a time on the CPU: their 16 MiB in float64 stay in its cache."""
MAX_NORM = 1e19
"""The square of a larger norm overflows in fp32, in which DeepSpeed takes its own: it would skip where we do not."""


@dataclass(frozen=True, kw_only=True)
class StepCheck:
    """What was seen before the step; equal on every rank but for `losses`."""

    losses: Tensor
    """(lanes of this rank, number of losses), on the device."""
    norm: float
    """The averaged gradient's norm before clipping."""
    bad_lanes: int
    """Lanes, of all ranks, one of whose losses is not finite."""

    @property
    def skipped(self) -> bool:
        """Whether the step must not move anything."""
        return self.bad_lanes > 0 or not self.norm <= MAX_NORM  # NaN compares False


def check_step(engine: Any, losses: Tensor, world: World, *, num_losses: int) -> StepCheck:
    """Look at this step's losses and gradient. Collective, and the one place in the step where the host waits.

    Args:
        engine: after the backward of the last lane.
        losses: (lanes of this rank, columns), on the device.
        num_losses: the first of the columns, which must be finite; the others are only logged.
    """
    gradients, whole = reduced_gradients(engine)
    squares = sum_of_squares(gradients).to(losses.device)
    bad_lanes = (~losses[:, :num_losses].isfinite()).any(dim=1).sum()
    rows = world.gather_rows(torch.stack([squares, bad_lanes.double()])).tolist()
    total = sum(row[0] for row in rows)
    return StepCheck(
        losses=losses,
        norm=math.sqrt(total / world.size if whole else total),
        bad_lanes=round(sum(row[1] for row in rows)),
    )


def sum_of_squares(tensors: list[Tensor]) -> Tensor:
    """Scalar, in float64: only the tensors themselves can overflow, and how ZeRO cuts them moves it by some 1e-13.

    On the CPU piece by piece: torch's norm in float64 of fp32 numbers takes ten times as long.
    """
    if tensors[0].device.type != "cpu":
        return torch.stack(torch._foreach_norm(tensors, 2, torch.float64)).square().sum()
    exact = torch.empty(PIECE, dtype=torch.float64)
    squares = []
    for (pieces,) in packed([[tensor.reshape(-1) for tensor in tensors]], PIECE):
        sizes = [len(piece) for piece in pieces]
        filled = exact[: sum(sizes)]
        torch._foreach_copy_(list(filled.split(sizes)), pieces)
        squares.append(torch.dot(filled, filled))
    return torch.stack(squares).sum()


def reduced_gradients(engine: Any) -> tuple[list[Tensor], bool]:
    """The gradient as it is averaged over ranks and lanes, before clipping; after the last lane's backward.

    Returns: this rank's tensors, and whether they are the whole gradient, equal on every rank, or this rank's share.
    """
    optimizer = engine.optimizer
    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        if optimizer.cpu_offload:
            optimizer._wait_for_offload_copies()
            return [group.grad for group in optimizer.single_partition_of_fp32_groups], False
        groups = [optimizer.averaged_gradients[index] for index in range(len(optimizer.bit16_groups))]
        return [gradient for group in groups for gradient in group if gradient is not None], False
    if isinstance(optimizer, BF16_Optimizer):  # stage 1 in bf16 with fp32 sums
        return optimizer.fp32_groups_gradients_flat, True
    return [p.grad for p in engine.module.parameters() if p.grad is not None], True


def take_step(engine: Any, check: StepCheck, *, clip_grad_norm: float | None = None) -> None:
    """The engine's step after the last lane; one that is skipped moves neither weights nor moments nor step count.

    A skipped step goes through the engine as well, so that it counts its steps and drops its gradients. Only
    the optimizer's own step is left out of it, and DeepSpeed copies weights that did not change.

    The gradient is clipped here, by the norm that `check_step` took: DeepSpeed sums its own over partitions in fp32, so
    that the last bits of every weight would depend on the number of ranks.

    Args:
        clip_grad_norm: scale the gradient down to this norm where it is larger; None or 0 leaves it.
    """
    skipped, optimizer = engine.skipped_steps, engine.basic_optimizer
    scale = clip_grad_norm / (check.norm + 1e-6) if clip_grad_norm else 1.0  # torch.nn.utils.clip_grad_norm_
    original_step = optimizer.step

    def step(*args: Any, **settings: Any) -> None:  # DeepSpeed calls it once, or once for each parameter group
        if check.skipped:
            return
        if scale < 1.0:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], scale)
        original_step(*args, **settings)

    optimizer.step = step  # on the instance, in front of the class's
    try:
        engine.step()
    finally:
        del optimizer.step
    if check.skipped:
        engine.skipped_steps = skipped + 1  # DeepSpeed counts those it found itself
    assert check.skipped or engine.skipped_steps == skipped, f"DeepSpeed skipped a step of norm {check.norm}"
