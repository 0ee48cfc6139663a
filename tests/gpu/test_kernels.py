"""The Triton kernels compiled for this GPU, by the tests that the interpreter passes on the CPU."""

from __future__ import annotations

import pytest
import torch

from tests.albef.kernels.test_triton import CHECKS, run_checks


@pytest.mark.parametrize("name", CHECKS)
def test_kernels(name: str, device: torch.device) -> None:
    """The same cases and tolerances, in a process that compiles; in a rehearsal, in one that interprets."""
    run_checks(name, TRITON_INTERPRET=str(int(device.type == "cpu")), KERNEL_DEVICE=device.type)
