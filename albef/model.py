"""The pretraining model: three encoders, their heads, and the forward that reads like the paper's section 3.2."""

# B batch, P patches, L text tokens, D image width, H text width, E embedding, Q queue, N masked tokens, V vocabulary

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.batch import PretrainBatch, TeacherTargets
from albef.kernels.dispatch import Impl
from albef.kernels.itc import itc_loss
from albef.network.encoders import AlbefEncoders
from albef.network.pairs import fuse_pairs
from albef.objective.losses import contrastive_logits, itm_accuracy, itm_loss, mlm_loss
from albef.objective.negatives import Negatives, draw_negatives
from albef.objective.queue import FeatureQueue
from albef.precision import at_least_fp32

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 0.5


class PretrainOutput(NamedTuple):
    """Losses of one micro-batch, in nats and fp32 at least, and the tensors behind them (without gradient).

    A tuple, because DeepSpeed registers the hook that starts its backward on the tensors of a tuple, list or dict, but
    not of a dataclass: gradients would then be accumulated twice at stage 0 in bf16.
    """

    total: Tensor
    """Scalar: itc + itm + mlm, unweighted. Backward starts here."""
    itc: Tensor
    """Scalar, exactly 0 when switched off; so are the next two."""
    itm: Tensor
    """Scalar."""
    mlm: Tensor
    """Scalar."""
    itm_accuracy: Tensor
    """Scalar in [0, 1], no gradient; 0 when ITM is off."""
    image_feat: Tensor
    """(B, E) L2-normalised."""
    text_feat: Tensor | None = None
    """(B, E) L2-normalised; None when neither ITC nor ITM reads the clean text."""
    sim_i2t: Tensor | None = None
    """(B, B) student images against the batch's teacher texts, over the temperature: what hard negatives are drawn by;
    None when none are."""
    sim_t2i: Tensor | None = None
    """The same for student texts against teacher images."""
    teacher_lse_i2t: Tensor | None = None
    """(B,) log-sum-exp of the teacher's image-text scores over batch and queue: exp(score - it) is a soft target of
    ITC. None when ITC does not distill."""
    negative_image: Tensor | None = None
    """(B,) the image paired with text b as a negative; None when ITM is off."""
    negative_text: Tensor | None = None
    """(B,) the text paired with image b as a negative; None when ITM is off."""
    itm_logits: Tensor | None = None
    """(3B, 2): the pairs, then text b with its negative image, then image b with its negative text. Class 1 = match."""
    itm_labels: Tensor | None = None
    """(3B,) 1 for the pairs, 0 for the rest."""
    mlm_states: Tensor | None = None
    """(N, H) of the MLM head at the masked positions; None when MLM is off."""


class AlbefForPretraining(AlbefEncoders):
    """The student: the model that the optimizer trains.

    A loss that is switched off is exactly zero and its work is skipped, so parameters that only it uses get no gradient
    (`grad is None`). DeepSpeed's ZeRO stages 0 to 2 accept that; plain DDP needs `find_unused_parameters=True`.
    """

    def __init__(self, config: AlbefConfig, objective: ObjectiveConfig | None = None) -> None:
        super().__init__(config)
        self.objective = objective or ObjectiveConfig()
        self.itm_head = nn.Linear(config.text_width, 2)
        self.temperature = nn.Parameter(torch.full((1,), config.temperature))
        self.kernels: Impl = "auto"
        """Version of the fused kernels of the losses, and of its teacher's average."""

    def clamped_temperature(self) -> Tensor:
        """(1,) temperature within [0.001, 0.5], >= fp32.

        The gradient passes the clamp unchanged, as in the original, which clamps the parameter in place: with an
        ordinary clamp, a temperature outside the bounds would never get a gradient that brings it back.
        """
        temperature = at_least_fp32(self.temperature)
        return temperature + (temperature.clamp(MIN_TEMPERATURE, MAX_TEMPERATURE) - temperature).detach()

    def match(self, text_embeds: Tensor, attention_mask: Tensor, image_embeds: Tensor) -> Tensor:
        """ITM logits (g * B, 2), >= fp32, class 1 = match; see `fuse_cls`."""
        return at_least_fp32(self.itm_head(self.fuse_cls(text_embeds, attention_mask, image_embeds)))

    def forward(
        self,
        batch: PretrainBatch,
        targets: TeacherTargets,
        queue: FeatureQueue,
        alpha: Tensor,
        *,
        negative_indices: tuple[Tensor, Tensor] | None = None,
    ) -> PretrainOutput:
        """The three losses of one micro-batch.

        Args:
            batch: the micro-batch, on the model's device.
            targets: `MomentumTeacher.targets` of the same batch.
            queue: its state at the start of the step; not changed.
            alpha: 0-d float64 on the model's device, weight of the teacher's soft targets, in [0, 1]. A number would
                be a constant of a compiled graph, so that every step of its rise would compile another.
            negative_indices: (B,) image for each text and (B,) text for each image, instead of the draw.

        Returns: the losses, and the tensors that they were computed from.
        """
        objective = self.objective
        image_embeds, image_feat = self.encode_image(batch.image)
        text_embeds, masked_embeds = self.encode_clean_and_masked(
            batch, clean=objective.itc or objective.itm, masked=objective.mlm
        )
        itc = itm = mlm = accuracy = image_feat.new_zeros(())
        text_feat = sim_i2t = sim_t2i = teacher_lse = itm_logits = itm_labels = mlm_states = None

        if text_embeds is not None:
            text_feat = self.project_text(text_embeds)
            temperature = self.clamped_temperature()
            if objective.itc:
                itc, teacher_lse = self._itc(image_feat, text_feat, targets, queue, temperature, alpha)
            if objective.itm and objective.hard_negatives:
                # without gradient: negatives are drawn by them
                sim_i2t = contrastive_logits(image_feat.detach(), targets.text_feat, None, temperature.detach())
                sim_t2i = contrastive_logits(text_feat.detach(), targets.image_feat, None, temperature.detach())

        negatives = self._negatives(sim_i2t, sim_t2i, batch, negative_indices) if objective.itm else None
        fused_pairs, fused_masked = fuse_pairs(
            self.multimodal_encoder,
            image_embeds,
            batch.attention_mask,
            text_embeds=text_embeds,
            negatives=None if negatives is None else (negatives.image, negatives.text),
            masked_embeds=masked_embeds,
            masked_positions=batch.mlm_positions,
        )

        if negatives is not None and fused_pairs is not None:
            itm_logits = at_least_fp32(self.itm_head(fused_pairs))  # (3B, 2)
            itm_labels, valid = negatives.labels, negatives.valid
            itm = itm_loss(itm_logits, itm_labels, valid)
            accuracy = itm_accuracy(itm_logits, itm_labels, valid)
        if fused_masked is not None:
            predicted = self.predict_masked(fused_masked)  # (N, V) in factors
            mlm_states = predicted.states
            soft = targets.mlm_logits if objective.distill_mlm else None
            mlm = mlm_loss(predicted, batch.mlm_labels, soft, alpha, impl=self.kernels)
        return PretrainOutput(
            total=itc + itm + mlm,
            itc=itc,
            itm=itm,
            mlm=mlm,
            itm_accuracy=accuracy,
            image_feat=image_feat.detach(),
            text_feat=_detached(text_feat),
            sim_i2t=sim_i2t,
            sim_t2i=sim_t2i,
            teacher_lse_i2t=teacher_lse,
            negative_image=negatives.image if negatives is not None else None,
            negative_text=negatives.text if negatives is not None else None,
            itm_logits=_detached(itm_logits),
            itm_labels=itm_labels,
            mlm_states=_detached(mlm_states),
        )

    def _itc(
        self,
        image_feat: Tensor,
        text_feat: Tensor,
        targets: TeacherTargets,
        queue: FeatureQueue,
        temperature: Tensor,
        alpha: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Contrastive loss of both directions (paper, eq. 2 and 6), and the teacher's (B,) log-sum-exp of the first."""
        images, texts = targets.image_feat, targets.text_feat
        soft = (images, texts) if self.objective.distill_itc else (None, None)
        direction = partial(itc_loss, temperature=temperature, alpha=alpha, impl=self.kernels)
        i2t = direction(image_feat, texts, queue.text, teacher=soft[0])
        t2i = direction(text_feat, images, queue.image, teacher=soft[1])
        return (i2t.rows.mean() + t2i.rows.mean()) / 2, _detached(i2t.teacher_lse)

    def _negatives(
        self,
        sim_i2t: Tensor | None,
        sim_t2i: Tensor | None,
        batch: PretrainBatch,
        given: tuple[Tensor, Tensor] | None,
    ) -> Negatives:
        """A negative image for each text and a negative text for each image, from this micro-batch."""
        size = batch.image.shape[0]
        if given is not None:
            return Negatives(image=given[0], text=given[1])
        if self.objective.hard_negatives:
            assert sim_i2t is not None and sim_t2i is not None
            similarity = torch.stack([sim_t2i, sim_i2t])
        else:
            similarity = torch.zeros(2, size, size, device=batch.image.device)
        (image, text), (image_valid, text_valid) = draw_negatives(similarity, batch.negative_draws)
        return Negatives(image=image, text=text, image_valid=image_valid, text_valid=text_valid)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
