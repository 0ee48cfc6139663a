"""What DeepSpeed's engine does twice, parameter by parameter, or for nothing, and the step is as right without."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from torch import Tensor

PENDING_BYTES = 16 << 20
"""Gradients of a lane in bf16 that wait for their place in the fp32 sums."""


class LeanBf16Optimizer(BF16_Optimizer):
    """`BF16_Optimizer` with the same state, checkpoints and arithmetic in fewer operations and less memory.

    DeepSpeed widens and adds one parameter's gradient at a time, zeroes the sums twice a step, copies all of them
    before it sends them and back after, and takes a norm of each parameter that the host waits for. Here the lanes'
    gradients go to the sums some MiB at a time while the backward runs, so that they never lie in memory together with
    the activations; the first lane's overwrite what the last step left, the sums are sent from where they lie, and the
    norm is that of `step_check`.
    """

    sums: dict[Tensor, Tensor]
    """The fp32 sum of each parameter's gradient: views of DeepSpeed's flat tensors."""
    places: dict[Tensor, tuple[int, int]]
    """Group and number in it of each parameter."""
    pending: list[tuple[Tensor, Tensor]]
    """Parameters whose gradient is ready, and it."""

    def make_ready(self) -> None:
        """Give a `BF16_Optimizer` of DeepSpeed what this class adds to its state."""
        self.sums, self.places, self.pending = {}, {}, []
        for group, parameters in enumerate(self.bf16_groups):
            for index, parameter in enumerate(parameters):
                self.sums[parameter] = self.fp32_groups_gradients[group][index].view_as(parameter)
                self.places[parameter] = (group, index)
                parameter.register_post_accumulate_grad_hook(self._collect)

    def _collect(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self.pending.append((parameter, parameter.grad))
        parameter.grad = None
        if sum(grad.nbytes for _, grad in self.pending) >= PENDING_BYTES:
            self._add_pending()

    @torch.no_grad()
    def _add_pending(self) -> None:
        """Add the gradients that are ready to the fp32 sums, and free them."""
        first: list[tuple[Tensor, Tensor]] = []  # sum and gradient
        later: list[tuple[Tensor, Tensor]] = []
        for parameter, grad in self.pending:
            group, index = self.places[parameter]
            started = self.fp32_groups_has_gradients[group]
            (later if started[index] else first).append((self.sums[parameter], grad))
            started[index] = True
        if first:
            torch._foreach_copy_([total for total, _ in first], [grad for _, grad in first])
        if later:
            torch._foreach_add_([total for total, _ in later], [grad for _, grad in later])
        self.pending.clear()

    @torch.no_grad()
    def update_hp_grads(self, clear_lp_grads: bool = False) -> None:
        """Add the rest of this lane's gradients to the sums; DeepSpeed calls it after each backward."""
        self._add_pending()
        unused = [
            self.sums[parameter]
            for parameters, started in zip(self.bf16_groups, self.fp32_groups_has_gradients, strict=True)
            for parameter, has_gradient in zip(parameters, started, strict=True)
            if not has_gradient
        ]
        if unused:
            torch._foreach_zero_(unused)

    @torch.no_grad()
    def reduce_gradients(self, pipeline_parallel: bool = False) -> None:
        """Average the sums over the ranks, in place; DeepSpeed's engine calls it after the last lane's backward."""
        assert not pipeline_parallel
        size = dist.get_world_size(self.dp_process_group)
        if size == 1:
            return
        sending = [
            dist.all_reduce(flat, group=self.dp_process_group, async_op=True)
            for flat in self.fp32_groups_gradients_flat
        ]
        for work, flat in zip(sending, self.fp32_groups_gradients_flat, strict=True):
            work.wait()
            flat.mul_(1 / size)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Step the fp32 weights of this rank, round them to bf16, gather the other ranks'."""
        assert closure is None, "losses are not computed again here"
        partitions = self.fp32_groups_flat_partition
        for partition, gradient in zip(partitions, self.fp32_groups_gradient_flat_partition, strict=True):
            partition.grad = gradient
        client = self.optimizer
        client.step()
        if client.state:  # none yet if the first step was skipped
            self._lazy_init_hp_params_optimizer_state()
        self.update_lp_params()

    def clear_hp_grads(self) -> None:
        """Let the next lane overwrite the sums; without a pass over them."""
        self.fp32_groups_has_gradients = [[False] * len(group) for group in self.bf16_groups]


def use_fewer_operations(engine: Any) -> None:
    """Make an engine lean, in place: its weights, moments and checkpoints keep their bits.

    A `BF16_Optimizer` (stage 1 in bf16 with fp32 sums) becomes ours. At stage 0 a lone rank's gradient is the mean over
    the ranks, so the engine does not copy it into one tensor and back. Other engines stay as they are.
    """
    if isinstance(engine.optimizer, BF16_Optimizer):
        _make_lean(engine.optimizer)
    elif not engine.zero_optimization() and dist.get_world_size() == 1:
        engine._reduce_non_expert_gradients = lambda grads, elements_per_buffer: None


def _make_lean(found: Any) -> None:
    assert found.grad_acc_dtype == torch.float32 and not found.immediate_grad_update and not found.has_moe_layers
    assert not found.clip_grad, "the pipeline clips the gradient itself"
    found.__class__ = LeanBf16Optimizer
    found.make_ready()
