"""NLVR2: is a statement true of two images (paper, section 4)?"""

# B statements, L text tokens

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from albef.config import AlbefConfig, Nlvr2Config
from albef.downstream.paired_fusion import TwoImageEncoders
from albef.downstream.teacher import WholeModelTeacher
from albef.inputs.nlvr2_batch import Nlvr2Batch
from albef.kernels.dispatch import Impl
from albef.network.layers import initialise_bert
from albef.objective.losses import class_accuracy, class_loss
from albef.precision import at_least_fp32


class Nlvr2Output(NamedTuple):
    """The loss of one micro-batch, fp32 at least. A tuple, as DeepSpeed's hooks need."""

    total: Tensor
    """Scalar, in nats. Backward starts here."""
    accuracy: Tensor
    """Scalar in [0, 1], no gradient."""
    logits: Tensor
    """(B, 2), without gradient. Class 1 = the statement is true."""


class AlbefForNlvr2(TwoImageEncoders):
    """The encoders, and a head of two layers on the multimodal [CLS] state."""

    def __init__(self, config: AlbefConfig, objective: Nlvr2Config | None = None) -> None:
        super().__init__(config)
        self.objective = objective or Nlvr2Config()
        width = config.text_width
        self.cls_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        initialise_bert(self.cls_head)
        self.kernels: Impl = "auto"
        """Version of the kernel that moves its teacher's average."""

    def predict(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, 2), >= fp32, class 1 = the statement is true.

        Args:
            image: (2B, 3, H, W) normalised pixels: the B first images, then the B second ones. They pass the image
                encoder as one batch.
            input_ids, attention_mask: (B, L) of the statements.
        """
        return at_least_fp32(self.cls_head(self.fuse_cls(input_ids, attention_mask, self.image_encoder(image))))

    def forward(self, batch: Nlvr2Batch, targets: Tensor | None, alpha: Tensor) -> Nlvr2Output:
        """The loss of one micro-batch.

        Args:
            batch: on the model's device, normalised.
            targets: `Nlvr2Teacher.targets` of the same batch, or None for hard targets.
            alpha: 0-d float64 on the model's device, weight of the teacher's soft targets, in [0, 1].
        """
        logits = self.predict(batch.image, batch.input_ids, batch.attention_mask)
        loss = class_loss(logits, batch.labels, targets, alpha)
        return Nlvr2Output(loss, class_accuracy(logits, batch.labels), logits.detach())


class Nlvr2Teacher(WholeModelTeacher[AlbefForNlvr2]):
    """The momentum teacher.

    Make it after the student's pretrained weights are loaded. The original makes it before, so it starts from random
    layers (`Nlvr2Config.teacher_before_load`).
    """

    @torch.no_grad()
    def targets(self, batch: Nlvr2Batch) -> Tensor:
        """The teacher's logits (B, 2), >= fp32, no gradient."""
        return self.model.predict(batch.image, batch.input_ids, batch.attention_mask)
