"""The image encoder: timm's vision transformer, all tokens after the final norm."""

# B batch, H and W pixels, P patches, D width, h heads, d = D / h

from __future__ import annotations

import torch.nn.functional as F
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor

from albef.config import AlbefConfig


class ImageAttention(Attention):
    """timm's attention with heads after queries, keys and values, so that their gradient lies as the projection's
    backward reads it: timm's order costs a copy of it in each layer."""

    keep_weights = False
    """Grad-CAM sets this, in evaluation: attention is computed unfused, and kept in `weights` with its gradient."""
    weights: Tensor | None = None
    """(B, h, 1+P, 1+P)."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, 1+P, D) to (B, 1+P, D)."""
        assert attn_mask is None and not is_causal, "patches have no mask"
        projected = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, 1+P, 3, h, d)
        query, key, value = (part.transpose(1, 2) for part in projected.unbind(2))  # (B, h, 1+P, d)
        if self.keep_weights:
            self.weights = (query @ key.transpose(-1, -2) * self.scale).softmax(dim=-1)
            attended = self.weights @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return output


class ImageEncoder(VisionTransformer):
    """ViT as in DeiT (Touvron et al. 2021): class token, learned positions, pre-norm, LayerNorm eps 1e-6, no dropout.

    Parameter names are timm's, so that timm and DeiT weight files load by name.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.vision_width,
            depth=config.vision_depth,
            num_heads=config.vision_heads,
            num_classes=0,
            global_pool="",
            attn_layer=ImageAttention,
        )

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]  # timm's takes masks that are not used here
        """(B, 3, H, W) normalised pixels of any float type to (B, 1+P, D); token 0 is the class token."""
        return self.forward_features(image.to(self.patch_embed.proj.weight.dtype))
