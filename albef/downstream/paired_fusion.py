"""Encoders of a text with two images: multimodal layers in pairs, the first reads image 0, the second image 1."""

# B texts, M images, P patches, D image width, L text tokens, H width, h heads, N positions that are read

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from albef.config import AlbefConfig
from albef.network.attention import project_together, token_mask
from albef.network.fusion import MultimodalLayer, cls_positions
from albef.network.layers import initialise_bert
from albef.network.text import TextEncoder
from albef.network.vision import ImageEncoder


class TwoImageEncoders(nn.Module):
    """Image and text encoder, and multimodal layers in pairs: the parts of NLVR2's model and of its pretraining."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.text_encoder = TextEncoder(config)
        self.multimodal_encoder = PairedMultimodalEncoder(config)

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of each image and multimodal layer for the backward, which computes the rest again."""
        self.image_encoder.set_grad_checkpointing()
        self.multimodal_encoder.checkpoint_activations = True

    def fuse_cls(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_embeds: Tensor,
        images: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[CLS] states (B, H) of texts, (B, L) ids and 1 / 0 mask, fused with two images each.

        Args:
            image_embeds, images: as in `PairedMultimodalEncoder.forward`.
        """
        text_embeds = self.text_encoder(input_ids, attention_mask)  # (B, L, H)
        fused: Tensor = self.multimodal_encoder(
            text_embeds, attention_mask, image_embeds, images, positions=cls_positions(attention_mask)
        )
        return fused


class PairedMultimodalEncoder(nn.Module):
    """`fusion_depth` pairs of layers (paper, section 4, NLVR2).

    The layers of a pair share the keys and values of cross-attention, and have queries and all else of their own. The
    shared projections are those of the first; the second has none. So no parameter has two names, and both images' keys
    and values of all layers are one product.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MultimodalLayer(config) for _ in range(2 * config.fusion_depth))
        initialise_bert(self, config.layer_init_std)
        for layer in self.layers[1::2]:
            attention = cast(MultimodalLayer, layer).cross_attention
            del attention.key, attention.value
        self.checkpoint_activations = False

    def forward(
        self,
        text_embeds: Tensor,
        attention_mask: Tensor,
        image_embeds: Tensor,
        images: tuple[Tensor, Tensor] | None = None,
        *,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Fuse each text with two images.

        Args:
            text_embeds: (B, L, H) from the text encoder.
            attention_mask: (B, L) 1 / 0.
            image_embeds: (M, 1+P, D); an image may occur in several pairs.
            images: (B,) int64 each, image 0 and image 1 of each text; None: M = 2B, and the first half are image 0.
            positions: (N,) int64, flat positions b * L + l of the states that are read; None reads all.

        Returns: (B, L, H), or (N, H) with `positions`.
        """
        mask = token_mask(attention_mask, text_embeds.dtype)
        hidden, last = text_embeds, len(self.layers) - 1
        shared = self._keys_values(image_embeds)
        for number, layer in enumerate(self.layers):
            key_value, which = shared[number // 2], number % 2
            of_image = key_value.chunk(2)[which] if images is None else key_value.index_select(0, images[which])
            arguments = (hidden, mask, of_image, None, positions if number == last else None)
            if self.checkpoint_activations and torch.is_grad_enabled():
                hidden = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                hidden = layer(*arguments)
        return hidden

    def _keys_values(self, image_embeds: Tensor) -> tuple[Tensor, ...]:
        """Each pair's keys and values of (M, 1+P, D) image states, (M, 1+P, 2, h, d)."""
        attentions = [cast(MultimodalLayer, layer).cross_attention for layer in self.layers[::2]]
        layers = [linear for attention in attentions for linear in (attention.key, attention.value)]
        projected = project_together(image_embeds, layers)  # (M, 1+P, pairs * 2 * H)
        return projected.unflatten(-1, (len(attentions), 2, attentions[0].heads, -1)).unbind(2)
