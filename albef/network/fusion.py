"""The multimodal encoder: BERT's second half, with cross-attention from text to image."""

# B images, P patches, D image width, R rows (texts), g texts per image, X extra rows, L text tokens, H width, h heads
# N positions that are read

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from albef.config import AlbefConfig
from albef.network.attention import Attention, project_together, token_mask
from albef.network.layers import FeedForward, initialise_bert


class CrossAttention(Attention):
    """Texts attend to images; all texts of an image attend to the same keys and values."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config, context_width=config.vision_width)

    def forward(
        self, hidden: Tensor, key_value: Tensor, extra_image: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """(R, L, H), or (N, H) at `positions`, of images' keys and values (B, 1+P, 2, h, d), without padding or mask.

        See `MultimodalEncoder.forward` for which row attends to which image, and for the positions.
        """
        num_images = key_value.shape[0]
        num_extra = 0 if extra_image is None else extra_image.shape[0]
        query = self.query(hidden).unflatten(-1, (1, self.heads, -1))  # (R, L, 1, h, d)
        own, extra = query.split([hidden.shape[0] - num_extra, num_extra])
        # the g texts of an image are joined along the query length: a view, without a copy of keys and values
        attended = self.attend(own.reshape(num_images, -1, *own.shape[2:]), key_value).reshape(-1, *hidden.shape[1:])
        if extra_image is not None:
            attended = torch.cat([attended, self.attend(extra, key_value.index_select(0, extra_image))])
        if positions is not None:
            hidden, attended = (states.flatten(0, 1).index_select(0, positions) for states in (hidden, attended))
        return self.finish(hidden, attended)


class MultimodalLayer(nn.Module):
    """Self-attention over the text, cross-attention to the image, feed-forward."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config, context_width=config.text_width)
        self.cross_attention = CrossAttention(config)
        self.ffn = FeedForward(config)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor,
        key_value: Tensor,
        extra_image: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """(R, L, H) under a mask (R, 1, 1, L) from `token_mask`, to images' keys and values (B, 1+P, 2, h, d).

        Returns: (R, L, H); (N, H) with `positions`.
        """
        hidden = self.self_attention(hidden, mask)
        hidden = self.cross_attention(hidden, key_value, extra_image, positions)
        return self.ffn(hidden)


class MultimodalEncoder(nn.Module):
    """`fusion_depth` layers with cross-attention (paper, section 3.1: the last six of BERT-base)."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MultimodalLayer(config) for _ in range(config.fusion_depth))
        initialise_bert(self, config.layer_init_std)
        self.checkpoint_activations = False

    def forward(
        self,
        text_embeds: Tensor,
        attention_mask: Tensor,
        image_embeds: Tensor,
        extra_image: Tensor | None = None,
        *,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Fuse texts with images, each image's keys and values computed once, of all layers in one product.

        Args:
            text_embeds: (R, L, H) from the text encoder. R = g * B + X: first g texts of image 0, then g of image 1 and
                so on; then X extra rows.
            attention_mask: (R, L) 1 / 0.
            image_embeds: (B, 1+P, D).
            extra_image: (X,) int64, the image that each extra row attends to; None when there are no extra rows.
            positions: (N,) int64, flat positions r * L + l of the states that are read, in any order: from the last
                layer's attention on, which mixes tokens for the last time, only these are computed. None reads all.

        Returns: (R, L, H), or (N, H) with `positions`.
        """
        mask = token_mask(attention_mask, text_embeds.dtype)
        hidden, last = text_embeds, len(self.layers) - 1
        for number, (layer, key_value) in enumerate(zip(self.layers, self._keys_values(image_embeds), strict=True)):
            arguments = (hidden, mask, key_value, extra_image, positions if number == last else None)
            if self.checkpoint_activations and torch.is_grad_enabled():
                hidden = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                hidden = layer(*arguments)
        return hidden

    def _keys_values(self, image_embeds: Tensor) -> tuple[Tensor, ...]:
        """Each layer's keys and values of (B, 1+P, D) image states, (B, 1+P, 2, h, d)."""
        attentions = [cast(MultimodalLayer, layer).cross_attention for layer in self.layers]
        layers = [linear for attention in attentions for linear in (attention.key, attention.value)]
        projected = project_together(image_embeds, layers)  # (B, 1+P, layers * 2 * H)
        return projected.unflatten(-1, (len(attentions), 2, attentions[0].heads, -1)).unbind(2)


def cls_positions(attention_mask: Tensor) -> Tensor:
    """(R,) flat positions of the [CLS] tokens of R rows, from their (R, L) mask."""
    rows, length = attention_mask.shape
    return torch.arange(0, rows * length, length, device=attention_mask.device)
