"""Which parts of an image make it similar to a text: Grad-CAM on the image encoder (paper, section 6: ALBEF_itc)."""

# B pairs, L text tokens, h heads, P patches = G x G grid

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from albef.evaluation_mode import evaluating
from albef.gradcam import autograd, copies_of_inference_weights, keeping_weights
from albef.network.encoders import ContrastiveEncoders
from albef.network.vision import ImageAttention


@dataclass(frozen=True, kw_only=True)
class ClassAttention:
    """Attention of the class token in one image layer, and its gradient, for B pairs."""

    weights: Tensor
    """(B, h, 1+P) over class token and patches."""
    gradient: Tensor
    """(B, h, 1+P) of the summed similarities of the pairs."""
    similarity: Tensor
    """(B,) cosine over the temperature."""


def class_attention(
    model: ContrastiveEncoders,
    image: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    temperature: Tensor,
    *,
    layer: int = -1,
) -> ClassAttention:
    """Attention of the class token, and its gradient of each pair's similarity.

    Works where `albef.gradcam.cross_attention` does.

    Args:
        model: its weights, gradients and mode do not change.
        image: (B, 3, H, W) normalised pixels.
        input_ids, attention_mask: (B, L).
        temperature: (1,) of the similarities: it scales the gradient.
        layer: image layer; the last, as in the paper.
    """
    attention = model.image_encoder.blocks[layer].attn
    assert isinstance(attention, ImageAttention)
    with evaluating(model), keeping_weights(attention), autograd():
        with torch.no_grad():
            text_feat = model.encode_text(input_ids, attention_mask)[1].clone()
        weights = copies_of_inference_weights(model, ("image_encoder.", "image_proj."))
        # the gradient starts at the pixels, so frozen weights work too, and no weight gets a gradient
        image_feat = functional_call(_ImageFeatures(model), weights, (image.clone().requires_grad_(),))
        similarity = (image_feat * text_feat).sum(dim=1) / temperature.detach().clone()
        assert attention.weights is not None
        (gradient,) = torch.autograd.grad(similarity.sum(), attention.weights)
        return ClassAttention(
            weights=attention.weights.detach()[:, :, 0], gradient=gradient[:, :, 0], similarity=similarity.detach()
        )


def image_maps(found: ClassAttention) -> Tensor:
    """(B, G, G), >= 0: attention times its positive gradient, averaged over heads."""
    seen = (found.weights * found.gradient.clamp(min=0))[..., 1:].mean(dim=1)  # (B, P)
    side = round(seen.shape[-1] ** 0.5)
    return seen.unflatten(-1, (side, side))


class _ImageFeatures(nn.Module):
    """`encode_image`'s features as a forward, because `functional_call` calls forward."""

    def __init__(self, model: ContrastiveEncoders) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.encode_image(image)[1]
