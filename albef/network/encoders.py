"""What models are built of: the three encoders; with projections; with the MLM head too, as in pretraining."""

# B batch, P image patches, L text tokens, D image width, H text width, E embedding, N masked tokens

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.inputs.batch import PretrainBatch
from albef.kernels.mlm import WordLogits
from albef.network.fusion import MultimodalEncoder, cls_positions
from albef.network.layers import MlmHead
from albef.network.text import TextEncoder
from albef.network.vision import ImageEncoder
from albef.precision import at_least_fp32


class ImageTextEncoders(nn.Module):
    """The three encoders (paper, section 3.1)."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.text_encoder = TextEncoder(config)
        self.multimodal_encoder = MultimodalEncoder(config)

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of each image and multimodal layer for the backward, which computes the rest again.

        An image's keys and values of all multimodal layers are among these inputs: one product makes them.
        The dropout of a layer is drawn again as it was, so the numbers do not change. The text encoder's layers are few
        and their texts short: theirs stay.
        """
        self.image_encoder.set_grad_checkpointing()
        self.multimodal_encoder.checkpoint_activations = True

    def fuse_cls(self, text_embeds: Tensor, attention_mask: Tensor, image_embeds: Tensor) -> Tensor:
        """[CLS] states of fused pairs: all that a head on pairs reads.

        Args:
            text_embeds: (g * B, L, H), the g texts of image 0, then those of image 1 and so on; g is mostly 1.
            attention_mask: (g * B, L).
            image_embeds: (B, 1+P, D); keys and values are computed once per image.

        Returns: (g * B, H).
        """
        fused: Tensor = self.multimodal_encoder(
            text_embeds, attention_mask, image_embeds, positions=cls_positions(attention_mask)
        )
        return fused


class ContrastiveEncoders(ImageTextEncoders):
    """With projections to the joint space in which images and texts are compared."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.image_proj = nn.Linear(config.vision_width, config.embed_dim)
        self.text_proj = nn.Linear(config.text_width, config.embed_dim)

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) normalised pixels to image_embeds (B, 1+P, D) and image_feat (B, E), L2-normalised, >= fp32."""
        image_embeds = self.image_encoder(image)
        return image_embeds, F.normalize(at_least_fp32(self.image_proj(image_embeds[:, 0])), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) ids and 1 / 0 mask to text_embeds (B, L, H) and text_feat (B, E), L2-normalised, >= fp32."""
        text_embeds = self.text_encoder(input_ids, attention_mask)
        return text_embeds, self.project_text(text_embeds)

    def project_text(self, text_embeds: Tensor) -> Tensor:
        """text_feat (B, E) of text_embeds (B, L, H): the [CLS] state, projected, L2-normalised, >= fp32."""
        return F.normalize(at_least_fp32(self.text_proj(text_embeds[:, 0])), dim=-1)


class AlbefEncoders(ContrastiveEncoders):
    """The parts whose weights the momentum teacher of pretraining averages."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.mlm_head = MlmHead(config)

    def encode_clean_and_masked(
        self, batch: PretrainBatch, *, clean: bool = True, masked: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """text_embeds (B, L, H) of the clean and of the masked ids, as one batch through the text encoder.

        A version that is not requested is None and costs nothing.
        """
        versions = [ids for ids, wanted in ((batch.input_ids, clean), (batch.mlm_input_ids, masked)) if wanted]
        if not versions:
            return None, None
        embeds = self.text_encoder(torch.cat(versions), batch.attention_mask.repeat(len(versions), 1))
        chunks = list(embeds.chunk(len(versions)))
        return chunks.pop(0) if clean else None, chunks.pop(0) if masked else None

    def predict_masked(self, fused: Tensor) -> WordLogits:
        """Logits of all words, in factors, of multimodal states (N, H) at masked positions."""
        return WordLogits(self.mlm_head(fused), self.text_encoder.embeddings.word.weight, self.mlm_head.bias)
