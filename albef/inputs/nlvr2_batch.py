"""The tensors of one micro-batch of NLVR2."""

# B statements, L text tokens

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from albef.inputs.batch import ImageBatch

CLASSES = ("false", "true")
"""In the order of the labels 0 and 1: whether the statement is true of the two images."""


@dataclass(kw_only=True)
class Nlvr2Batch(ImageBatch):
    """One micro-batch: B statements about two images each. `image` is (2B, 3, H, W): the first images, then the
    second ones."""

    input_ids: Tensor
    """(B, L) token ids, int64, padded with [PAD]."""
    attention_mask: Tensor
    """(B, L) 1 where there is a token, 0 at padding, int64."""
    labels: Tensor
    """(B,) int64, index into `CLASSES`."""
