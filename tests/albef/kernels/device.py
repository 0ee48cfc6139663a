"""Where `check_*.py` run their kernels: Triton's interpreter on the CPU, or the GPU when one is asked for."""

from __future__ import annotations

import os

DEVICE = os.environ.get("KERNEL_DEVICE", "cpu")
