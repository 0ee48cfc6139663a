"""Text assignment: the pretraining of NLVR2's pairs of layers (paper, section 4).

A text is given with two images, and the model decides whether it belongs to the first, the second, or to neither.
"""

# B texts and images, P patches, L text tokens, D image width, H width, E embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.downstream.paired_fusion import TwoImageEncoders
from albef.errors import ConfigError
from albef.inputs.alignment_batch import LEAST_TEXTS, AlignmentBatch
from albef.kernels.dispatch import Impl
from albef.network.layers import initialise_bert
from albef.objective.losses import class_accuracy, class_loss, contrastive_logits
from albef.objective.negatives import draw_negatives
from albef.precision import at_least_fp32

TEMPERATURE = 0.07
"""Of the similarities that negatives are drawn by. It is a constant of the original: the learned one is not used."""
FIRST, SECOND, NEITHER = 0, 1, 2
"""Classes: the image that the text belongs to."""
SHARE_WITH_OWN = 2 / 3
"""Share of the texts whose own image is one of the two."""


@dataclass(frozen=True, kw_only=True)
class ImagePairs:
    """Two images for each text, and where its own is."""

    first: Tensor
    """(B,) int64, index of image 0."""
    second: Tensor
    """(B,) int64, index of image 1."""
    labels: Tensor
    """(B,) int64, FIRST, SECOND or NEITHER."""


class AlignmentOutput(NamedTuple):
    """The loss of one micro-batch, fp32 at least. A tuple, as DeepSpeed's hooks need."""

    total: Tensor
    """Scalar, in nats. Backward starts here."""
    accuracy: Tensor
    """Scalar in [0, 1], no gradient."""
    logits: Tensor
    """(B, 3), without gradient."""


class AlbefForAlignment(TwoImageEncoders):
    """The encoders, the image projection that negatives are drawn by, and a classifier of the [CLS] state.

    Projections and temperature come from pretraining and get no gradient. Only the image projection is used; the others
    are here because they belong to the official checkpoint. torch's AdamW leaves them as they are. DeepSpeed hands it
    gradients of zero, so weight decay shrinks them, at the paper's rates by 4e-7 a step. Features are normalised: the
    negatives hardly change.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.image_proj = nn.Linear(config.vision_width, config.embed_dim)
        self.text_proj = nn.Linear(config.text_width, config.embed_dim)
        self.temperature = nn.Parameter(torch.full((1,), config.temperature))
        self.ta_head = nn.Linear(config.text_width, 3)
        initialise_bert(self.ta_head)
        self.kernels: Impl = "auto"
        """As every task's model has it; none of its losses has a kernel."""

    def predict(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, 3), >= fp32, of the classes FIRST, SECOND and NEITHER.

        Args:
            image: (2B, 3, H, W) normalised pixels: the B first images, then the B second ones.
            input_ids, attention_mask: (B, L) of the texts.
        """
        return at_least_fp32(self.ta_head(self.fuse_cls(input_ids, attention_mask, self.image_encoder(image))))

    def forward(self, batch: AlignmentBatch, *, pairs: ImagePairs | None = None) -> AlignmentOutput:
        """The loss of one micro-batch.

        Args:
            batch: on the model's device, normalised.
            pairs: instead of the drawn ones.

        Raises:
            ConfigError: there are fewer than three texts.
        """
        check_size(len(batch.image))
        image_embeds = self.image_encoder(batch.image)  # (B, 1+P, D), each image once
        if pairs is None:
            pairs = draw_pairs(self.similarities(image_embeds), batch.draws)
        fused = self.fuse_cls(batch.input_ids, batch.attention_mask, image_embeds, (pairs.first, pairs.second))
        logits = at_least_fp32(self.ta_head(fused))  # (B, 3)
        loss = class_loss(logits, pairs.labels)
        return AlignmentOutput(loss, class_accuracy(logits, pairs.labels), logits.detach())

    @torch.no_grad()
    def similarities(self, image_embeds: Tensor) -> Tensor:
        """(B, B) cosines of the projected images (B, 1+P, D), over the temperature; fp32 at least."""
        feat = F.normalize(at_least_fp32(self.image_proj(image_embeds[:, 0])), dim=-1)  # (B, E)
        return contrastive_logits(feat, feat, None, feat.new_full((1,), TEMPERATURE))


def check_size(num_texts: int) -> None:
    """Raise a ConfigError unless the micro-batch has texts enough to draw two other images for each."""
    if num_texts < LEAST_TEXTS:
        raise ConfigError(
            f"text assignment draws two other images for a text, and the micro-batch has {num_texts} of them in all",
            f"use a micro-batch of at least {LEAST_TEXTS}",
        )


@torch.no_grad()
def draw_pairs(similarity: Tensor, draws: Tensor) -> ImagePairs:
    """Two images for each text: with probability 2/3 its own beside another, on either side; else two others.

    Others are drawn by the softmax of the similarities to the text's own image, the two of a pair without repeating
    one. Nothing is read back to the host.

    Args:
        similarity: (B, B) of the images, over the temperature.
        draws: (4, B) uniforms in [0, 1), see `AlignmentBatch.draws`.
    """
    with_own, own_first = draws[0] < SHARE_WITH_OWN, draws[1] < 0.5
    other, _ = draw_negatives(similarity, draws[2])  # (B,)
    places = torch.arange(len(other), device=other.device)
    third, _ = draw_negatives(similarity, draws[3], allowed=places != other[:, None])
    first = torch.where(with_own & own_first, places, other)
    second = torch.where(with_own, torch.where(own_first, other, places), third)
    labels = torch.where(with_own, torch.where(own_first, FIRST, SECOND), NEITHER)
    return ImagePairs(first=first, second=second, labels=labels)
