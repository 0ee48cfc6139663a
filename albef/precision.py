"""The one rule of precision: what decides or measures is computed in fp32 at least, whatever the weights are in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(tensor: Tensor) -> Tensor:
    """`tensor` in fp32 when it is bf16 or fp16; fp32 and float64 pass untouched, so that parity can be exact."""
    if tensor.dtype in (torch.bfloat16, torch.float16):
        return tensor.float()
    return tensor
