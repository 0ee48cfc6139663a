"""The tensors of one micro-batch (a lane) for the training step: of any task, and pretraining's with its targets."""

# B batch, L text tokens, E embedding, Q queue, N masked tokens in the batch, V vocabulary

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from albef.inputs.preprocess import normalise_bytes
from albef.kernels.mlm import WordLogits


@dataclass(kw_only=True)
class ImageBatch:
    """What the micro-batches of all tasks share. All random numbers of the step are drawn beforehand, and all sizes are
    known from the shapes, so the step never waits for the host."""

    image: Tensor
    """(B, 3, H, W): uint8 as the loader sends it, or normalised float, which the encoders take (`normalised`)."""
    keys: list[str] = dataclasses.field(default_factory=list)
    """The B sample keys, for logs and dumps."""
    captions: list[str] = dataclasses.field(default_factory=list)
    """The B texts as drawn and cleaned, for logs and dumps."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch with its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def normalised(self) -> Self:
        """The same batch with its image normalised, float32 on its device; itself where the image is float."""
        if self.image.dtype != torch.uint8:
            return self
        return dataclasses.replace(self, image=normalise_bytes(self.image))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, so that `to(..., non_blocking=True)` overlaps with compute."""
        return self._map(lambda tensor: tensor.pin_memory())

    def only(self, index: int) -> Self:
        """The micro-batch that holds only sample `index`, drawn as in the whole."""
        size = len(self.keys) or len(self.image)

        def own(tensor: Tensor) -> Tensor:
            """Its rows: of a sample with two images index and B + index."""
            return tensor.index_select(0, torch.arange(len(tensor), device=tensor.device)[index::size])

        rows = slice(index, index + 1)
        return dataclasses.replace(self._map(own), keys=self.keys[rows], captions=self.captions[rows])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = vars(self).items()
        changed: dict[str, Any] = {name: change(value) for name, value in values if isinstance(value, Tensor)}
        return dataclasses.replace(self, **changed)


@dataclass(kw_only=True)
class PretrainBatch(ImageBatch):
    """One micro-batch of pretraining."""

    input_ids: Tensor
    """(B, L) clean token ids, int64, padded with [PAD]."""
    attention_mask: Tensor
    """(B, L) 1 where there is a token, 0 at padding, int64."""
    mlm_input_ids: Tensor
    """(B, L) ids after masking (80% [MASK], 10% random, 10% unchanged of the chosen ones)."""
    mlm_positions: Tensor
    """(N,) flat positions (b * L + l) of the tokens to predict, ascending, int64; then 0 in rows that only fill up."""
    mlm_labels: Tensor
    """(N,) the original ids at those positions, int64; negative in rows that only fill up to N, at position 0."""
    negative_draws: Tensor
    """(2, B) uniforms in [0, 1), float64: row 0 draws a negative image for each text, row 1 a negative text for each
    image. Kept as draws rather than indices because the weights are known only in the forward."""

    def only(self, index: int) -> Self:
        """Also its masked tokens and draws."""
        length = self.input_ids.shape[1]
        own = (self.mlm_positions // length == index) & (self.mlm_labels >= 0)
        return dataclasses.replace(
            super().only(index),
            mlm_positions=self.mlm_positions[own] - index * length,
            mlm_labels=self.mlm_labels[own],
            negative_draws=self.negative_draws[:, index : index + 1],
        )


@dataclass(kw_only=True)
class TeacherTargets:
    """The momentum teacher's features and soft targets of one micro-batch; none has a gradient."""

    image_feat: Tensor
    """(B, E) L2-normalised teacher image features, at least fp32: candidates of this batch, then of the queue, and the
    queries of the soft targets of ITC."""
    text_feat: Tensor
    """(B, E) the same for text."""
    mlm_logits: WordLogits | None = None
    """(N, V) teacher's logits at the masked positions, in factors, with the teacher's own weights; None when MLM does
    not distill."""
