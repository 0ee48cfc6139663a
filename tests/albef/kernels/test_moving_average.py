"""The plain version of the moving average against the formula in float64, in packs of several sizes."""

from __future__ import annotations

import pytest
import torch

from albef.kernels import moving_average
from albef.kernels.moving_average import move_averages
from tests.albef.kernels.moving_average_cases import WEIGHT, check_moved, lists, moved


@pytest.mark.parametrize("piece", [1, 1_000, 4_096, 1 << 22])
@pytest.mark.parametrize("value", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("copy", [torch.bfloat16, None])
def test_packs_do_not_change_the_average(
    value: torch.dtype, copy: torch.dtype | None, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of more than a pack are cut, small ones share a pack."""
    if piece == 1:
        monkeypatch.setattr("tests.albef.kernels.moving_average_cases.SHAPES", [(2,), (1,), (5,)])
    monkeypatch.setattr(moving_average, "PIECE", piece)
    ours = lists(value, copy)
    values, expected = [one.clone() for one in ours[1]], moved(ours[0], ours[1])
    move_averages(ours[0], ours[1], ours[2], WEIGHT)
    check_moved(ours, values, expected)


def test_float64_stays_exact() -> None:
    """As the parity tests take it: no rounding to fp32 on the way."""
    averages, values, _ = lists(torch.float64, None, average=torch.float64)
    expected = moved(averages, values)
    move_averages(averages, values, [], WEIGHT)
    assert all(torch.allclose(one, exact, rtol=1e-15) for one, exact in zip(averages, expected, strict=True))
