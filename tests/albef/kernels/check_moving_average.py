"""The Triton kernel of the moving average against the formula in float64; see test_triton.py."""

from __future__ import annotations

import pytest
import torch

from albef.kernels.moving_average import move_averages
from tests.albef.kernels.device import DEVICE
from tests.albef.kernels.moving_average_cases import WEIGHT, check_moved, lists, moved


@pytest.mark.parametrize("value", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("copy", [torch.bfloat16, None])
def test_one_launch_moves_every_tensor(value: torch.dtype, copy: torch.dtype | None) -> None:
    """Twice, the second time from the kept table."""
    ours = [[tensor.to(DEVICE) for tensor in tensors] for tensors in lists(value, copy)]
    values = [one.cpu().clone() for one in ours[1]]
    for _ in range(2):
        expected = moved([one.cpu() for one in ours[0]], values)
        move_averages(ours[0], ours[1], ours[2], WEIGHT, impl="triton")
        check_moved(ours, values, expected, interpreted=DEVICE == "cpu")


def test_tensors_that_are_not_contiguous_are_refused() -> None:
    """`auto` takes the plain version for them."""
    averages, values = [torch.zeros(2, 3, device=DEVICE).T], [torch.ones(3, 2, device=DEVICE)]
    with pytest.raises(RuntimeError, match="not contiguous"):
        move_averages(averages, values, [], WEIGHT, impl="triton")
