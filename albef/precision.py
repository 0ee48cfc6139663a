"""The one rule of precision: losses, similarities and metrics are computed in at least fp32, with any weights."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(tensor: Tensor) -> Tensor:
    """`tensor` in fp32 when it is bf16 or fp16; fp32 and float64 stay as they are, so that parity can be exact."""
    return tensor.to(wide_dtype(tensor.dtype))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 for bf16 and fp16, else `dtype` itself."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
