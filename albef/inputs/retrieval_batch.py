"""The tensors of one micro-batch of retrieval, and of grounding, which trains the same."""

# B batch, L text tokens

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from albef.inputs.batch import ImageBatch


@dataclass(kw_only=True)
class RetrievalBatch(ImageBatch):
    """One micro-batch of pairs. An image may be there more than once, with other texts."""

    input_ids: Tensor
    """(B, L) token ids, int64, padded with [PAD]."""
    attention_mask: Tensor
    """(B, L) 1 where there is a token, 0 at padding, int64."""
    image_ids: Tensor
    """(B,) int64 from 0 on, the number of each pair's image: pairs of one image are positives of each other."""
    negative_draws: Tensor
    """(2, B) uniforms in [0, 1), float64: row 0 draws a negative image for each text, row 1 a negative text for each
    image."""

    def only(self, index: int) -> Self:
        """Also its draws."""
        return dataclasses.replace(super().only(index), negative_draws=self.negative_draws[:, index : index + 1])
