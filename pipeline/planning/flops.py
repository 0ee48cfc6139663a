"""How much arithmetic a training step is, and how much of it a device can do: the two halves of MFU."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.run_config import RunConfig
from pipeline.task import LaneLosses, LaneStep, Task
from pipeline.task_maker import TaskMaker

MEAN_TEXT_TOKENS = 13
"""Tokens of a mean caption of the 14M images, [CLS] included: web captions have about ten words."""

# Dense bf16 TFLOP/s by the vendor's data sheet, without sparsity.
DATA_SHEET_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "L4": 121.0,
}


def sketched_lane(sketch: Task, noise: Any) -> LaneLosses:
    """The forward of one lane of a task on the meta device: nothing is computed, and nothing is sent.

    Args:
        sketch: what `TaskMaker.sketch` made.
        noise: a batch that `TaskMaker.noise` made.
    """
    # one lane of two: no task sends anything to the other ranks before a rank's last lane
    at = LaneStep(step=0, epoch=0, lane=0, num_lanes=2, steps_per_epoch=1)
    losses = sketch.losses(sketch.model, noise.to("meta"), at)
    sketch.discard()
    return losses


def flops_per_sample(sketch: Task, noise: Any) -> float:
    """FLOPs of one sample in one training step, forward and backward, as the task's code does it.

    Counted by torch's own counter over the real modules on the meta device, so nothing is computed and no formula of
    ours can drift from the model. Elementwise work and the optimizer are not counted, as is usual for MFU.

    Args:
        sketch, noise: as for `sketched_lane`.
    """
    return sum(flops_by_part(sketch, noise).values())


def flops_by_part(sketch: Task, noise: Any) -> dict[str, float]:
    """`flops_per_sample` by part of the step.

    Args:
        sketch, noise: as for `sketched_lane`.

    Returns: `forward beside` of what the task computes outside its model; `forward NAME` and `backward NAME` of each
        child of the model; `forward other` of what is in none. In backward that counts with the child that ran after.
    """
    counter = FlopCounterMode(display=False)
    with counter, _Split(sketch.model, counter) as split:
        sketched_lane(sketch, noise).total.backward()
    return {part: flops / len(noise.keys) for part, flops in split.flops.items() if flops}


class _Split:
    """Splits a running count of FLOPs: hooks of the model and its children switch the part that counts."""

    def __init__(self, model: nn.Module, counter: FlopCounterMode) -> None:
        self.flops: Counter[str] = Counter()
        self._counter, self._counted, self._part = counter, 0, "forward beside"
        self._hooks = [
            model.register_forward_pre_hook(lambda *_: self._switch("forward other")),
            model.register_forward_hook(lambda *_: self._switch("forward beside")),
        ]
        for name, child in model.named_children():
            self._hooks.append(child.register_forward_pre_hook(lambda *_, name=name: self._switch(f"forward {name}")))
            self._hooks.append(child.register_forward_hook(partial(self._leave, name)))

    def __enter__(self) -> _Split:
        return self

    def __exit__(self, *error: Any) -> None:
        self._switch("")
        for hook in self._hooks:
            hook.remove()

    def _leave(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._switch("forward other")
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:  # called before the child's own backward
                tensor.register_hook(lambda gradient: self._switch(f"backward {name}"))

    def _switch(self, part: str) -> None:
        total = self._counter.get_total_flops()
        self.flops[self._part] += total - self._counted
        self._counted, self._part = total, part


def needed_flops(run: RunConfig, maker: TaskMaker, dtype: torch.dtype) -> float:
    """FLOPs of a sample whose text is of the mean length, without padding: the count that MFU is taken on.

    What a step computes above it, for padding, is no progress, and a step that skips it must not look slower.
    """
    length = min(MEAN_TEXT_TOKENS, run.objective.max_text_tokens)
    short = run.with_text_tokens(length)
    return flops_per_sample(maker.sketch(short, dtype), maker.noise(short, run.batch.micro_batch_size))


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """FLOP/s the device can do at most, and where the figure is from.

    A known GPU in bf16: the data sheet. Anything else: the best of a few large matrix products, measured here.
    """
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        for known, tflops in DATA_SHEET_TFLOPS.items():
            if known in name:
                return tflops * 1e12, f"data sheet of {known}, dense bf16"
    return _measured_product(device, dtype), f"measured {str(dtype).removeprefix('torch.')} matrix product"


def _measured_product(device: torch.device, dtype: torch.dtype) -> float:
    size = 8_192 if device.type == "cuda" else 1_024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    assert product.shape == (size, size)
    return 2 * size**3 / best
