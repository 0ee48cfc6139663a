"""The recorded step on a GPU: fp32 as near as the official code's own, bf16 as near as eight bits allow, no waiting."""

from __future__ import annotations

import torch

from tests.parity.goldens import build, load, recorded_batch
from tests.parity.recorded_step import check_bf16, check_fp32, take_step


def test_fp32_step(device: torch.device) -> None:
    """Another order of sums, the same tensors."""
    golden = load("pretrain_tiny")
    check_fp32(golden, *take_step(golden, torch.float32, device))


def test_bf16_step(device: torch.device) -> None:
    """The compute precision of real runs, with the kernels a GPU takes for it."""
    golden = load("pretrain_tiny")
    check_bf16(golden, *take_step(golden, torch.bfloat16, device))


def test_no_step_waits_for_the_gpu(device: torch.device) -> None:
    """CUDA raises on any synchronisation from the batch's arrival to the teacher's update, negatives drawn too."""
    golden = load("pretrain_tiny")
    trio = build(golden, torch.bfloat16, device=device)
    batch, _ = recorded_batch(golden, "in/0/", "inj/0/")
    batch.negative_draws = torch.rand(batch.negative_draws.shape, dtype=torch.float64)
    batch = batch.to(device)
    trio.student.train()
    for waiting in ("default", "error"):  # libraries may synchronise while they load
        forbid_waiting(device, waiting)
        try:
            targets = trio.teacher.targets(batch)
            alpha = torch.full((), 0.4, dtype=torch.float64, device=device)
            trio.student(batch, targets, trio.queue, alpha).total.backward()
            trio.queue.gather(targets.image_feat, targets.text_feat)
            trio.queue.enqueue()
            trio.teacher.update(trio.student)
        finally:
            forbid_waiting(device, "default")


def forbid_waiting(device: torch.device, mode: str) -> None:
    """Nothing on a CPU, which has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode(mode)
