"""Lists of tensors for the tests of the moving average, and the average by hand."""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = [(1,), (3, 5), (4_096,), (4_097,), (2, 4_095), (7,)]
"""Of one element, a block of the kernel, one more and one less."""
WEIGHT = 0.005


def lists(value: torch.dtype, copy: torch.dtype | None, *, average: torch.dtype = torch.float32) -> list[list[Tensor]]:
    """Averages, values, and copies where they have a type."""
    generator = torch.Generator().manual_seed(4)
    averages = [torch.randn(shape, generator=generator).to(average) for shape in SHAPES]
    values = [torch.randn(shape, generator=generator).to(value) for shape in SHAPES]
    copies = [] if copy is None else [torch.full(shape, torch.nan, dtype=copy) for shape in SHAPES]
    return [averages, values, copies]


def moved(averages: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """m a + (1 - m) v in float64 (paper, section 3.3)."""
    return [(1 - WEIGHT) * a.double() + WEIGHT * v.double() for a, v in zip(averages, values, strict=True)]


def check_moved(
    found: list[list[Tensor]], values: list[Tensor], expected: list[Tensor], *, interpreted: bool = False
) -> None:
    """Averages to two roundings of fp32, copies exactly their rounding, values as they were.

    Triton's interpreter cuts a number to bf16 where a GPU and torch round it, so there one bf16 step is allowed.
    """
    averages, kept, copies = found
    for index, (average, exact) in enumerate(zip(averages, expected, strict=True)):
        assert torch.allclose(average.cpu().double(), exact, rtol=2.5e-7, atol=1e-9), index
        assert torch.equal(kept[index].cpu(), values[index]), index
        if copies:
            rounded = average.cpu().to(copies[index].dtype)
            step = 2**-7 if interpreted else 0.0
            assert torch.allclose(copies[index].cpu().double(), rounded.double(), rtol=step, atol=0), index
