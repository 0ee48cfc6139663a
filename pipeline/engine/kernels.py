"""Whether the fused kernels that a recipe asks for can run here."""

from __future__ import annotations

import torch

from albef.errors import ConfigError
from albef.kernels.dispatch import Impl, use_triton


def check_kernels(kernels: Impl, device: torch.device) -> None:
    """Raises: ConfigError when `model.kernels` asks for Triton where it cannot run."""
    try:
        use_triton("model.kernels", kernels, torch.empty(0, device=device))
    except RuntimeError as error:
        raise ConfigError(str(error), "set model.kernels to auto or torch, or train on a CUDA device") from None
