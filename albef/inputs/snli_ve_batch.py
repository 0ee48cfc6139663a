"""The tensors of one micro-batch of visual entailment (SNLI-VE)."""

# B batch, L text tokens

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from albef.inputs.batch import ImageBatch

CLASSES = ("contradiction", "neutral", "entailment")
"""In the order of the labels 0, 1, 2, which is the original's."""


@dataclass(kw_only=True)
class EntailmentBatch(ImageBatch):
    """One micro-batch: images as premises, texts as hypotheses. The text premise of SNLI is not given to the model."""

    input_ids: Tensor
    """(B, L) token ids of the hypotheses, int64, padded with [PAD]."""
    attention_mask: Tensor
    """(B, L) 1 where there is a token, 0 at padding, int64."""
    labels: Tensor
    """(B,) int64, index into `CLASSES`."""
