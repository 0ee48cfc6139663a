"""`--deterministic`: the same bits from the same run on the same GPU, as far as torch has such algorithms."""

from __future__ import annotations

import os

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")
"""What NVIDIA documents as deterministic; the first is faster, the second takes less memory."""


def use_deterministic() -> None:
    """Let torch take deterministic algorithms or raise where it has none. Call it before CUDA starts.

    On a CPU nothing changes: there every step is deterministic already.
    """
    if os.environ.get(CUBLAS) not in WORKSPACES:
        os.environ[CUBLAS] = WORKSPACES[0]
    # torch would also fill each new tensor, against programs that read memory before they write it; ours do not
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False  # it chooses an algorithm by time
    torch.use_deterministic_algorithms(True)
