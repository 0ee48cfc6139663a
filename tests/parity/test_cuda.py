"""The recorded step on a GPU: fp32 as near as the official code's own, bf16 as near as eight bits allow, no waiting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from albef.model import PretrainOutput
from tests.parity.goldens import Golden, Trio, build, check, load, recorded_batch, tolerance

BF16_LOSS = 0.03
"""Relative: bf16 rounds at 0.4%, a few times over in a few layers."""


@pytest.fixture(autouse=True)
def full_fp32() -> Iterator[None]:
    """Products in fp32 proper; TF32 keeps 10 bits of them."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def take_step(golden: Golden, dtype: torch.dtype, device: str) -> tuple[Trio, PretrainOutput]:
    """Forward and backward of the recorded batch 0, and its features in the queue."""
    trio = build(golden, dtype, device=device)
    batch, negatives = recorded_batch(golden, "in/0/", "inj/0/")
    batch = batch.to(device)
    given: tuple[Tensor, Tensor] = (negatives[0].to(device), negatives[1].to(device))
    trio.teacher.update(trio.student)
    targets = trio.teacher.targets(batch, trio.queue, trio.student.clamped_temperature())
    alpha = golden.info["config"]["alpha"]
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


@pytest.mark.gpu
def test_fp32_step_on_cuda() -> None:
    """Another order of sums, the same tensors."""
    golden = load("pretrain_tiny")
    check_fp32(golden, *take_step(golden, torch.float32, "cuda"))


@pytest.mark.gpu
def test_bf16_step_on_cuda() -> None:
    """The compute precision of real runs, with the kernels a GPU takes for it."""
    golden = load("pretrain_tiny")
    check_bf16(golden, *take_step(golden, torch.bfloat16, "cuda"))


@pytest.mark.gpu
def test_no_step_waits_for_the_gpu() -> None:
    """CUDA raises on any synchronisation from the batch's arrival to the teacher's update, negatives drawn too."""
    golden = load("pretrain_tiny")
    trio = build(golden, torch.bfloat16, device="cuda")
    batch, _ = recorded_batch(golden, "in/0/", "inj/0/")
    batch.negative_draws = torch.rand(batch.negative_draws.shape, dtype=torch.float64)
    batch = batch.to("cuda")
    trio.student.train()
    for warm in (False, True):  # libraries may synchronise while they load
        torch.cuda.set_sync_debug_mode("error" if warm else "default")
        try:
            targets = trio.teacher.targets(batch, trio.queue, trio.student.clamped_temperature())
            trio.student(batch, targets, trio.queue, 0.4).total.backward()
            trio.queue.gather(targets.image_feat, targets.text_feat)
            trio.queue.enqueue()
            trio.teacher.update(trio.student)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_bf16_step_on_the_cpu() -> None:
    """The same bf16 check where there is no GPU."""
    golden = load("pretrain_tiny")
    check_bf16(golden, *take_step(golden, torch.bfloat16, "cpu"))
