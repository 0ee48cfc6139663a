"""The tensors of one micro-batch of text assignment, the pretraining of NLVR2."""

# B texts, L text tokens

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from albef.inputs.batch import ImageBatch


@dataclass(kw_only=True)
class AlignmentBatch(ImageBatch):
    """One micro-batch of text assignment: B images, each with its text."""

    input_ids: Tensor
    """(B, L) token ids, int64, padded with [PAD]."""
    attention_mask: Tensor
    """(B, L) 1 where there is a token, 0 at padding, int64."""
    draws: Tensor
    """(4, B) uniforms in [0, 1), float64, of each text: whether its image is in the pair, on which side it is, and the
    two draws of other images."""
