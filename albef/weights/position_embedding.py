"""Position embeddings of an image encoder, resized to another number of patches."""

# P patches, D width

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.errors import CheckpointError


def resize_position_embedding(embedding: Tensor, num_patches: int) -> Tensor:
    """Bicubic resize of the square grid of patch positions; the class token's position is copied.

    The same as the original's (models/vit.py, interpolate_pos_embed): cubic with a = -0.75, corners not aligned, no
    antialiasing, the class token first.

    Args:
        embedding: (1, 1+P, D), P a square number.
        num_patches: number of patches to resize to, a square number.

    Returns: (1, 1+num_patches, D) of the same dtype; `embedding` itself when the grids are equal.

    Raises:
        CheckpointError: one of the two numbers of patches is not a square.
    """
    patches, width = embedding.shape[1] - 1, embedding.shape[2]
    if patches == num_patches:
        return embedding
    old, new = math.isqrt(max(patches, 0)), math.isqrt(num_patches)
    if old == 0 or new == 0 or old**2 != patches or new**2 != num_patches:
        raise CheckpointError(
            f"position embeddings of {patches} patches cannot be resized to {num_patches}: both must be square numbers",
            "use square images whose side the patch size divides, and weights with one class token",
        )
    grid = embedding[:, 1:].transpose(1, 2).reshape(1, width, old, old)  # (1, D, old, old)
    # half precisions are resized in fp32: some devices have no bicubic for them, and it avoids rounding twice
    exact = grid if grid.dtype == torch.float64 else grid.float()
    resized = F.interpolate(exact, size=(new, new), mode="bicubic", align_corners=False).to(embedding.dtype)
    return torch.cat([embedding[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
