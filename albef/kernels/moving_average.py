"""An exponential moving average of many tensors, and its copy in another precision, moved together in place."""

from __future__ import annotations

import torch
from torch import Tensor

from albef.kernels.dispatch import Impl, use_triton
from albef.kernels.packs import packed

PIECE = 1 << 22
"""Elements that the plain version widens at a time: 16 MiB in fp32, which stay in the cache."""


@torch.no_grad()
def move_averages(
    averages: list[Tensor], values: list[Tensor], copies: list[Tensor], weight: float, *, impl: Impl = "auto"
) -> None:
    """Move each average towards its value, a += weight (v - a), and write it to its copy; in place (paper, 3.3).

    Args:
        averages: fp32 or float64, contiguous.
        values: of the same shapes, in any precision, contiguous; not changed.
        copies: of the same shapes, in a lower precision, contiguous; or an empty list.
        weight: 1 - momentum, in [0, 1].
        impl: see `albef.kernels.dispatch`. The Triton version takes one launch and one pass over memory.
    """
    unsuited = None
    if len({tensor.dtype for tensor in averages}) > 1 or len({tensor.dtype for tensor in (*values, *copies)}) > 2:
        unsuited = "the tensors are of several types"
    elif not all(tensor.is_contiguous() for tensor in (*averages, *values, *copies)):
        unsuited = "a tensor is not contiguous"
    if use_triton("move_averages", impl, averages[0], values[0], unsuited=unsuited):
        from albef.kernels import moving_average_triton

        moving_average_triton.move(averages, values, copies, weight)
    elif not copies and values[0].dtype == averages[0].dtype:
        torch._foreach_lerp_(averages, values, weight)
    else:
        _move_in_packs(averages, values, copies, weight)


def _move_in_packs(averages: list[Tensor], values: list[Tensor], copies: list[Tensor], weight: float) -> None:
    """The values are widened into room for a few million elements, instead of a whole copy of the model."""
    room = averages[0].new_empty(min(PIECE, sum(tensor.numel() for tensor in averages)))
    for ours, theirs, rounded in packed([averages, values, copies], PIECE):
        sizes = [len(piece) for piece in ours]
        wide = list(room[: sum(sizes)].split(sizes))
        torch._foreach_copy_(wide, theirs)
        torch._foreach_lerp_(ours, wide, weight)
        if rounded:
            torch._foreach_copy_(rounded, ours)
