"""Resizing of position embeddings, where the recordings do not reach."""

from __future__ import annotations

import pytest
import torch

from albef.errors import CheckpointError
from albef.weights.position_embedding import resize_position_embedding


def cubic(x: float) -> float:
    """Keys' kernel with a = -0.75."""
    a, x = -0.75, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resized_axis(old: int, new: int) -> torch.Tensor:
    """(new, old) weights of one axis: pixel centres at (i + 0.5) * old / new - 0.5, edges repeated."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        first = int(centre // 1) - 1
        for j in range(first, first + 4):
            weights[i, min(max(j, 0), old - 1)] += cubic(centre - j)
    return weights


@pytest.mark.parametrize(("old", "new"), [(3, 5), (5, 3), (4, 8)])
def test_resize_is_the_cubic_written_out(old: int, new: int) -> None:
    """Equal to the kernel applied along both axes in float64, to rounding."""
    before = torch.randn(1, 1 + old**2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axis = resized_axis(old, new)
    grid = before[0, 1:].reshape(old, old, 6)
    expected = torch.einsum("yi,xj,ijd->yxd", axis, axis, grid).reshape(new**2, 6)
    after = resize_position_embedding(before, new**2)
    assert torch.equal(after[0, 0], before[0, 0])
    assert (after[0, 1:] - expected).abs().max() < 1e-12


def test_equal_grids_are_returned_as_they_are() -> None:
    """No copy, no rounding."""
    embedding = torch.randn(1, 17, 3)
    assert resize_position_embedding(embedding, 16) is embedding


def test_bf16_is_resized_in_fp32() -> None:
    """bf16 in, bf16 out, rounded once."""
    embedding = torch.randn(1, 17, 3).bfloat16()
    after = resize_position_embedding(embedding, 9)
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, resize_position_embedding(embedding.float(), 9).bfloat16())


@pytest.mark.parametrize(("tokens", "patches"), [(13, 16), (18, 16), (17, 12), (1, 16)])
def test_grids_that_are_not_square_are_refused(tokens: int, patches: int) -> None:
    """A distilled DeiT (two class tokens) or a rectangular model has no square grid."""
    with pytest.raises(CheckpointError, match="square"):
        resize_position_embedding(torch.zeros(1, tokens, 2), patches)
