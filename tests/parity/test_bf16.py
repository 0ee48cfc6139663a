"""The recorded step in bf16 on the CPU, as near as eight bits allow; tests/gpu has it on a GPU."""

from __future__ import annotations

import torch

from tests.parity.goldens import load
from tests.parity.recorded_step import check_bf16, take_step


def test_bf16_step_on_the_cpu() -> None:
    """Losses near the recorded ones in fp32, finite gradients, an fp32 queue."""
    golden = load("pretrain_tiny")
    check_bf16(golden, *take_step(golden, torch.bfloat16, "cpu"))
