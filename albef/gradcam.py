"""Which parts of the image each token attends to: Grad-CAM on a cross-attention layer (paper, figure 4)."""

# B pairs, L text tokens, h heads, P patches = G x G grid

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from albef.downstream.retrieval import AlbefForRetrieval
from albef.evaluation_mode import evaluating
from albef.model import AlbefForPretraining
from albef.network.attention import Attention
from albef.network.vision import ImageAttention

A = TypeVar("A", Attention, ImageAttention)


@dataclass(frozen=True, kw_only=True)
class RecordedAttention:
    """Attention and gradient of one cross-attention layer for B pairs."""

    weights: Tensor
    """(B, h, L, 1+P) attention of each token over class token and patches."""
    gradient: Tensor
    """(B, h, L, 1+P) of the summed match logits."""
    logits: Tensor
    """(B, 2) matching logits, class 1 = match."""


def token_maps(found: RecordedAttention, attention_mask: Tensor) -> Tensor:
    """Attention times its positive gradient, averaged over heads, for each token (official Grounding.py and notebook).

    Args:
        found: from `cross_attention`.
        attention_mask: (B, L) 1 / 0.

    Returns: (B, L, G, G), >= 0, zero at padding. Its mean over tokens is the official map of a whole text, which counts
    padding and so shrinks with the padded length.
    """
    seen = (found.weights * found.gradient.clamp(min=0))[..., 1:].mean(dim=1)  # (B, L, P)
    side = round(seen.shape[-1] ** 0.5)
    return seen.unflatten(-1, (side, side)) * attention_mask[:, :, None, None]


def cross_attention(
    model: AlbefForPretraining | AlbefForRetrieval,
    image: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    layer: int | None = None,
) -> RecordedAttention:
    """Cross-attention of one multimodal layer, and its gradient of the match logit of each pair.

    Works under `torch.no_grad` and `torch.inference_mode` too, and with a model that was made or loaded there.

    Args:
        model: its weights, gradients and mode do not change.
        image: (B, 3, H, W) normalised pixels.
        input_ids, attention_mask: (B, L).
        layer: 0-based multimodal layer; None takes the third of six, as the original's grounding does, or the like.
    """
    layers = model.multimodal_encoder.layers
    chosen = layers[(len(layers) - 1) // 2 if layer is None else layer]
    assert isinstance(chosen, nn.Module) and isinstance(chosen.cross_attention, Attention)
    with evaluating(model), keeping_weights(chosen.cross_attention) as attention, autograd():
        with torch.no_grad():
            image_embeds, _ = model.encode_image(image)
            text_embeds, _ = model.encode_text(input_ids, attention_mask)
        # tensors made under inference mode cannot take part in a backward; their copies can
        mask, weights = attention_mask.clone(), copies_of_inference_weights(model, ("multimodal_encoder.", "itm_head."))
        # the gradient starts here, so frozen weights work too, and no weight gets a gradient
        logits = functional_call(_Matching(model), weights, (text_embeds.requires_grad_(), mask, image_embeds))
        assert attention.weights is not None
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), attention.weights)
        return RecordedAttention(weights=attention.weights.detach(), gradient=gradient, logits=logits.detach())


class _Matching(nn.Module):
    """`match` as a forward, because `functional_call` calls forward."""

    def __init__(self, model: AlbefForPretraining | AlbefForRetrieval) -> None:
        super().__init__()
        self.model = model

    def forward(self, text_embeds: Tensor, attention_mask: Tensor, image_embeds: Tensor) -> Tensor:
        return self.model.match(text_embeds, attention_mask, image_embeds)


def copies_of_inference_weights(model: nn.Module, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """Copies of a module's parts by the names of a module that has it as `model`; empty unless it was made or loaded
    under `torch.inference_mode`."""
    return {
        f"model.{name}": weight.clone()
        for name, weight in model.named_parameters()
        if weight.is_inference() and name.startswith(parts)
    }


@contextmanager
def autograd() -> Iterator[None]:
    """Gradients in any mode that is on outside."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def keeping_weights(attention: A) -> Iterator[A]:
    """Have an attention keep the weights of its next forward."""
    attention.keep_weights = True
    try:
        yield attention
    finally:
        attention.keep_weights, attention.weights = False, None
