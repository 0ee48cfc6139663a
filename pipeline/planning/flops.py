"""How much arithmetic a training step is, and how much of it a device can do: the two halves of MFU."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.task import LaneLosses, LaneStep, Task

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
    counter = FlopCounterMode(display=False)
    with counter:
        sketched_lane(sketch, noise).total.backward()
    return counter.get_total_flops() / len(noise.image)


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
