"""The choice between a Triton kernel and its plain torch version, the same for every kernel."""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Literal

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Impl = Literal["auto", "triton", "torch"]

HAS_TRITON = importlib.util.find_spec("triton") is not None
"""Without importing it: that takes a second and decides, from TRITON_INTERPRET, how kernels run in this process."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton runs its kernels in Python on tensors of any device; for tests."""

_warned: set[str] = set()


def use_triton(kernel: str, impl: Impl, *tensors: Tensor, unsuited: str | None = None) -> bool:
    """Whether `kernel` runs in Triton: by devices, types and shapes alone, so that every rank chooses alike.

    `auto` takes Triton on a CUDA device where it can run, and plain torch elsewhere. The first time that it cannot run
    on a CUDA device it logs a warning (not while torch.compile traces, which a log line would stop).

    Args:
        kernel: its name, for messages.
        tensors: its inputs, on one device. float64 always runs in plain torch.
        unsuited: why this kernel's Triton version cannot take the inputs, for example their shapes; None if it can.

    Raises:
        RuntimeError: `impl` is "triton", which cannot run here.
        ValueError: `impl` is none of the three.
    """
    if impl == "torch":
        return False
    if impl not in ("auto", "triton"):
        raise ValueError(f"{kernel}: impl is {impl!r}, not 'auto', 'triton' or 'torch'")
    device = tensors[0].device.type
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        unsuited = "the inputs are float64"
    if not HAS_TRITON:
        unsuited = "Triton is not installed"
    if impl == "triton":
        if device != "cuda" and not INTERPRETED:
            unsuited = f"the inputs are on the device {device!r}, and TRITON_INTERPRET=1 is not set"
        if unsuited is not None:
            raise RuntimeError(f"{kernel}: impl='triton' cannot run: {unsuited}")
        return True
    if device != "cuda":
        return False
    if unsuited is not None:
        if not torch.compiler.is_compiling() and kernel not in _warned:
            _warned.add(kernel)
            log.warning("%s runs in plain torch on this device: %s", kernel, unsuited)
        return False
    return True
