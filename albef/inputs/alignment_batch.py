"""The tensors of one micro-batch of text assignment, the pretraining of NLVR2."""

# B texts, L text tokens

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from albef.inputs.batch import ImageBatch

LEAST_TEXTS = 3
"""Texts of a micro-batch, because two other images are drawn for some of them."""


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

    def only(self, index: int) -> Self:
        """The sample three times: its image is also the two others that are drawn."""
        one = super().only(index)
        return dataclasses.replace(
            one,
            image=one.image.repeat(LEAST_TEXTS, 1, 1, 1),
            input_ids=one.input_ids.repeat(LEAST_TEXTS, 1),
            attention_mask=one.attention_mask.repeat(LEAST_TEXTS, 1),
            draws=self.draws[:, index : index + 1].repeat(1, LEAST_TEXTS),
            keys=one.keys * LEAST_TEXTS,
            captions=one.captions * LEAST_TEXTS,
        )
