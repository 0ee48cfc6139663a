"""The image encoder: timm's vision transformer, all tokens after the final norm."""

# B batch, H and W pixels, P patches, D width

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from albef.config import AlbefConfig


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
        )

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]  # timm's takes masks that are not used here
        """(B, 3, H, W) normalised pixels of any float type to (B, 1+P, D); token 0 is the class token."""
        return self.forward_features(image.to(self.patch_embed.proj.weight.dtype))
