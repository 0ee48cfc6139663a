"""The recorded step, whole, in one precision on one device, and what must come of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from albef.model import PretrainOutput
from tests.parity.goldens import Golden, Trio, build, check, recorded_batch, tolerance

BF16_LOSS = 0.03
"""Relative: bf16 rounds at 0.4%, a few times over in a few layers."""


def take_step(golden: Golden, dtype: torch.dtype, device: torch.device | str) -> tuple[Trio, PretrainOutput]:
    """Forward and backward of the recorded batch 0, and its features in the queue."""
    trio = build(golden, dtype, device=device)
    batch, negatives = recorded_batch(golden, "in/0/", "inj/0/")
    batch = batch.to(device)
    given: tuple[Tensor, Tensor] = (negatives[0].to(device), negatives[1].to(device))
    trio.teacher.update(trio.student)
    targets = trio.teacher.targets(batch)
    alpha = torch.full((), golden.info["config"]["alpha"], dtype=torch.float64, device=device)
    output = trio.student(batch, targets, trio.queue, alpha, negative_indices=given)
    output.total.backward()
    trio.queue.gather(targets.image_feat, targets.text_feat)
    trio.queue.enqueue()
    assert isinstance(output, PretrainOutput)
    return trio, output


def check_fp32(golden: Golden, trio: Trio, output: PretrainOutput) -> None:
    """Losses, logits, gradients and queue within ten times the recorded noise."""
    found: dict[str, Tensor | None] = {
        "out/sim_i2t": output.sim_i2t,
        "out/sim_t2i": output.sim_t2i,
        "out/itm_logits": output.itm_logits,
        "out/loss_itm": output.itm,
        "alpha/out/loss_ita": output.itc,
        "alpha/out/loss_mlm": output.mlm,
        "post/image_queue": trio.queue.image.T,
        "post/text_queue": trio.queue.text.T,
    }
    found |= {f"grad/{name}": parameter.grad for name, parameter in trio.parameters().items()}
    for key, ours in found.items():
        assert ours is not None, key
        noise = key.removeprefix("alpha/")
        recorded = golden[key]
        if key.startswith("out/sim"):  # the batch's part; the queue's is in the loss alone
            recorded = recorded[:, : len(ours)]
        check(key, ours.cpu().view(recorded.shape), recorded, tolerance(golden, key, recorded, ours.dtype, noise=noise))


def check_bf16(golden: Golden, trio: Trio, output: PretrainOutput) -> None:
    """Losses in fp32 near the recorded ones, finite gradients, an fp32 queue."""
    for ours, key in (
        (output.itc, "alpha/out/loss_ita"),
        (output.itm, "out/loss_itm"),
        (output.mlm, "alpha/out/loss_mlm"),
    ):
        assert ours.dtype == torch.float32 and ours.item() == pytest.approx(golden[key].item(), rel=BF16_LOSS), key
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trio.student.parameters())
    assert trio.queue.image.dtype == torch.float32
