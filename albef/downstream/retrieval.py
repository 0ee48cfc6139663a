"""Retrieval (paper, section 4): ITC and ITM on pairs, several of one image. Grounding trains the same."""

# B batch, P patches, L text tokens, D image width, H text width, E embedding, Q queue

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from albef.config import AlbefConfig, RetrievalConfig
from albef.inputs.batch import TeacherTargets
from albef.inputs.retrieval_batch import RetrievalBatch
from albef.kernels.dispatch import Impl
from albef.kernels.itc import itc_loss
from albef.momentum import MomentumWeights
from albef.network.encoders import ContrastiveEncoders
from albef.network.pairs import fuse_pairs
from albef.objective.losses import contrastive_logits, itm_accuracy, itm_loss
from albef.objective.negatives import Negatives, draw_negatives
from albef.objective.queue import FeatureQueue
from albef.precision import at_least_fp32


class RetrievalOutput(NamedTuple):
    """Losses of one micro-batch, in nats and fp32 at least, and the tensors behind them (without gradient).

    A tuple, as DeepSpeed's hooks need.
    """

    total: Tensor
    """Scalar: itc + itm. Backward starts here."""
    itc: Tensor
    """Scalar."""
    itm: Tensor
    """Scalar."""
    itm_accuracy: Tensor
    """Scalar in [0, 1]."""
    image_feat: Tensor
    """(B, E) L2-normalised."""
    text_feat: Tensor
    """(B, E) L2-normalised."""
    sim_i2t: Tensor
    """(B, B) images against the batch's teacher texts, over the temperature: what negative texts are drawn by."""
    sim_t2i: Tensor
    """(B, B) texts against the batch's teacher images, alike: what negative images are drawn by."""
    itm_logits: Tensor
    """(3B, 2): the pairs, then text b with its negative image, then image b with its negative text. Class 1 = match."""


class AlbefForRetrieval(ContrastiveEncoders):
    """The three encoders, the projections and the matching head; pretraining's model without the MLM head.

    Unlike pretraining's the temperature is not clamped, as in the original (its users saw it fall).
    """

    def __init__(self, config: AlbefConfig, objective: RetrievalConfig | None = None) -> None:
        super().__init__(config)
        self.objective = objective or RetrievalConfig()
        self.itm_head = nn.Linear(config.text_width, 2)
        self.temperature = nn.Parameter(torch.full((1,), config.temperature))
        self.kernels: Impl = "auto"
        """Version of the fused kernels of the contrastive loss, and of its teacher's average."""

    def match(self, text_embeds: Tensor, attention_mask: Tensor, image_embeds: Tensor) -> Tensor:
        """ITM logits (g * B, 2), >= fp32, class 1 = match; see `fuse_cls`."""
        return at_least_fp32(self.itm_head(self.fuse_cls(text_embeds, attention_mask, image_embeds)))

    def forward(
        self,
        batch: RetrievalBatch,
        targets: TeacherTargets,
        queue: FeatureQueue,
        alpha: Tensor,
        *,
        negative_indices: tuple[Tensor, Tensor] | None = None,
    ) -> RetrievalOutput:
        """Both losses of one micro-batch.

        Args:
            batch: on the model's device, normalised.
            targets: `RetrievalTeacher.targets` of the same batch.
            queue: with ids, its state at the start of the step; not changed.
            alpha: 0-d float64 on the model's device, weight of the teacher's soft targets, in [0, 1].
            negative_indices: (B,) image for each text and (B,) text for each image, instead of the draw.
        """
        image_embeds, image_feat = self.encode_image(batch.image)
        text_embeds, text_feat = self.encode_text(batch.input_ids, batch.attention_mask)
        temperature = at_least_fp32(self.temperature)
        images, texts = targets.image_feat, targets.text_feat
        soft = (images, texts) if self.objective.distill else (None, None)
        ids = (batch.image_ids, queue.ids)
        direction = partial(itc_loss, temperature=temperature, alpha=alpha, ids=ids, impl=self.kernels)
        i2t = direction(image_feat, texts, queue.text, teacher=soft[0]).rows.mean()
        t2i = direction(text_feat, images, queue.image, teacher=soft[1]).rows.mean()
        itc = (i2t + t2i) / 2

        # without gradient: negatives are drawn by them
        sim_i2t = contrastive_logits(image_feat.detach(), texts, None, temperature.detach())
        sim_t2i = contrastive_logits(text_feat.detach(), images, None, temperature.detach())
        negatives = _negatives(sim_i2t, sim_t2i, batch, negative_indices)
        fused, _ = fuse_pairs(
            self.multimodal_encoder,
            image_embeds,
            batch.attention_mask,
            text_embeds=text_embeds,
            negatives=(negatives.image, negatives.text),
        )
        itm_logits = at_least_fp32(self.itm_head(fused))  # (3B, 2)
        itm = itm_loss(itm_logits, negatives.labels, negatives.valid)
        return RetrievalOutput(
            total=itc + itm,
            itc=itc,
            itm=itm,
            itm_accuracy=itm_accuracy(itm_logits, negatives.labels, negatives.valid),
            image_feat=image_feat.detach(),
            text_feat=text_feat.detach(),
            sim_i2t=sim_i2t,
            sim_t2i=sim_t2i,
            itm_logits=itm_logits.detach(),
        )


class RetrievalTeacher(MomentumWeights[ContrastiveEncoders]):
    """The momentum teacher: the averaged encoders and projections, without matching head and temperature.

    Args:
        student: source of shape, objective, kernels and initial weights: its pretrained ones, the same on every rank.
        device: the device of the teacher.
        compute_dtype: type of its forward; None takes its weights'.
    """

    def __init__(
        self, student: AlbefForRetrieval, *, device: torch.device | str, compute_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(
            student,
            lambda: ContrastiveEncoders(student.config),
            momentum=student.objective.momentum,
            device=device,
            compute_dtype=compute_dtype,
            dropout=student.objective.teacher_dropout,
            kernels=student.kernels,
        )

    @torch.no_grad()
    def targets(self, batch: RetrievalBatch) -> TeacherTargets:
        """The teacher's features: candidates, rows of the queue, and what gives the soft targets; no gradient."""
        return TeacherTargets(
            image_feat=self.model.encode_image(batch.image)[1],
            text_feat=self.model.encode_text(batch.input_ids, batch.attention_mask)[1],
        )


def _negatives(
    sim_i2t: Tensor, sim_t2i: Tensor, batch: RetrievalBatch, given: tuple[Tensor, Tensor] | None
) -> Negatives:
    """A negative image for each text and a negative text for each image, from this micro-batch, of another image.

    A batch of one image has none: these rows do not count. The original draws a positive there, or raises.
    """
    if given is not None:
        return Negatives(image=given[0], text=given[1])
    others = batch.image_ids[:, None] != batch.image_ids  # (B, B)
    (image, text), (image_valid, text_valid) = draw_negatives(
        torch.stack([sim_t2i, sim_i2t]), batch.negative_draws, others
    )
    return Negatives(image=image, text=text, image_valid=image_valid, text_valid=text_valid)
