"""Visual entailment (SNLI-VE): a hypothesis follows from an image, contradicts it, or neither (paper, section 4)."""

# B batch, L text tokens, P patches, H text width

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from albef.config import AlbefConfig, DistillConfig
from albef.downstream.teacher import WholeModelTeacher
from albef.inputs.snli_ve_batch import CLASSES, EntailmentBatch
from albef.kernels.dispatch import Impl
from albef.network.encoders import ImageTextEncoders
from albef.objective.losses import class_accuracy, class_loss
from albef.precision import at_least_fp32


class EntailmentOutput(NamedTuple):
    """The loss of one micro-batch, in nats, fp32 at least. A tuple, as DeepSpeed's hooks need."""

    total: Tensor
    """Scalar, mean over the batch. Backward starts here."""
    accuracy: Tensor
    """Scalar in [0, 1], no gradient."""
    logits: Tensor
    """(B, 3) in the order of `CLASSES`, no gradient."""


class AlbefForEntailment(ImageTextEncoders):
    """The three encoders and a head of two layers on the multimodal [CLS] state."""

    def __init__(self, config: AlbefConfig, objective: DistillConfig | None = None) -> None:
        super().__init__(config)
        self.objective = objective or DistillConfig()
        width = config.text_width
        self.cls_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(CLASSES)))
        self.kernels: Impl = "auto"
        """Version of the kernel that moves its teacher's average."""

    def predict(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, 3), >= fp32, of normalised pixels (B, 3, H, W) and the hypotheses' (B, L) ids and 1 / 0 mask."""
        image_embeds = self.image_encoder(image)  # (B, 1+P, D)
        text_embeds = self.text_encoder(input_ids, attention_mask)  # (B, L, H)
        return at_least_fp32(self.cls_head(self.fuse_cls(text_embeds, attention_mask, image_embeds)))

    def forward(self, batch: EntailmentBatch, targets: Tensor | None, alpha: Tensor) -> EntailmentOutput:
        """The loss of one micro-batch.

        Args:
            batch: on the model's device, normalised.
            targets: `EntailmentTeacher.targets` of the same batch, or None for hard targets.
            alpha: 0-d float64 on the model's device, weight of the teacher's soft targets, in [0, 1].
        """
        logits = self.predict(batch.image, batch.input_ids, batch.attention_mask)
        loss = class_loss(logits, batch.labels, targets, alpha)
        return EntailmentOutput(loss, class_accuracy(logits, batch.labels), logits.detach())


class EntailmentTeacher(WholeModelTeacher[AlbefForEntailment]):
    """The momentum teacher."""

    @torch.no_grad()
    def targets(self, batch: EntailmentBatch) -> Tensor:
        """The teacher's logits (B, 3), >= fp32, no gradient."""
        return self.model.predict(batch.image, batch.input_ids, batch.attention_mask)
