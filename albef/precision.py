"""The one rule of precision: losses, similarities and metrics are computed in at least fp32, with any weights."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(tensor: Tensor) -> Tensor:
    """`tensor` in fp32 when it is bf16 or fp16; fp32 and float64 stay as they are, so that parity can be exact."""
    if tensor.dtype in (torch.bfloat16, torch.float16):
        return tensor.float()
    return tensor
