"""Which parts of the image a word attends to: Grad-CAM on a cross-attention layer (paper, figure 4)."""

# B pairs, L text tokens, h heads, P patches = G x G grid, W words

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from albef.downstream.retrieval import AlbefForRetrieval
from albef.evaluation_mode import evaluating
from albef.inputs.arguments import check_one
from albef.inputs.preprocess import preprocess_image
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from albef.network.attention import Attention
from albef.network.vision import ImageAttention
from samples.captions import clean_caption
from samples.image import upright_rgb

A = TypeVar("A", Attention, ImageAttention)

COLOURS = np.array([(0, 0, 128), (0, 0, 255), (0, 255, 255), (255, 255, 0), (255, 0, 0), (128, 0, 0)], dtype=np.float64)
"""Dark blue to dark red, evenly spaced: the usual colours of a heat map."""


@dataclass(frozen=True, kw_only=True)
class RecordedAttention:
    """Attention and gradient of one cross-attention layer for B pairs."""

    weights: Tensor
    """(B, h, L, 1+P) attention of each token over class token and patches."""
    gradient: Tensor
    """(B, h, L, 1+P) of the summed match logits."""
    logits: Tensor
    """(B, 2) matching logits, class 1 = match."""


@dataclass(frozen=True, kw_only=True)
class WordMaps:
    """A map over the image for each word of a caption."""

    words: list[str]
    """W words of the cleaned caption, rejoined from the tokenizer's pieces."""
    maps: Tensor
    """(W, G, G) float32, >= 0; a word of several pieces has their mean."""
    caption_map: Tensor
    """(G, G) mean over all tokens, [CLS] included."""
    match: float
    """Probability that image and text match."""


def word_maps(
    model: AlbefForPretraining | AlbefForRetrieval,
    tokenizer: AlbefTokenizer,
    image: Image.Image,
    text: str,
    *,
    layer: int | None = None,
    max_text_tokens: int = 30,
) -> WordMaps:
    """Grad-CAM of one image and one text, with a map for each word.

    Args:
        model: its weights, gradients and mode do not change.
        image: any image; turned by its EXIF orientation, then squashed to the model's square, so a map covers it all.
        text: raw; it is cleaned as captions are.
        layer: number of the multimodal layer, as in `cross_attention`.
        max_text_tokens: the text is cut to this many tokens.

    Raises: TypeError when it is not one PIL.Image and one string.
    """
    check_one(image, Image.Image, "one PIL.Image")
    check_one(text, str, "one string")
    device = next(model.parameters()).device
    pixels = preprocess_image(image, model.config.image_size)[None].to(device)
    input_ids, attention_mask = tokenizer([clean_caption(text)], max_length=max_text_tokens)
    found = cross_attention(model, pixels, input_ids.to(device), attention_mask.to(device), layer=layer)
    maps = token_maps(found, attention_mask.to(device))[0].float().cpu()  # (L, G, G)
    words, groups = _words(tokenizer.pieces(input_ids[0])[1:])
    return WordMaps(
        words=words,
        maps=torch.stack([maps[1:][group].mean(dim=0) for group in groups]) if words else maps[:0],
        caption_map=maps.mean(dim=0),
        match=float(found.logits[0].softmax(dim=0)[1]),
    )


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


def overlay(image: Image.Image, heat: Tensor, *, opacity: float = 0.5) -> Image.Image:
    """A map drawn over its image in colours, at the image's size, upright.

    Args:
        image: any PIL image.
        heat: (G, G); scaled so that its largest value is dark red. All zero stays dark blue.
        opacity: of the colours, 0 to 1.
    """
    picture = upright_rgb(image)
    values = heat.detach().float().cpu().numpy()
    smooth = Image.fromarray(values / max(float(values.max()), 1e-12)).resize(picture.size, Image.Resampling.BICUBIC)
    level = np.clip(np.asarray(smooth), 0, 1) * (len(COLOURS) - 1)  # (H, W)
    below = np.minimum(level.astype(int), len(COLOURS) - 2)
    share = (level - below)[..., None]
    colours = COLOURS[below] * (1 - share) + COLOURS[below + 1] * share  # (H, W, 3)
    mixed = (1 - opacity) * np.asarray(picture, dtype=np.float64) + opacity * colours
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _words(pieces: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """The words, and the pieces that each consists of: skate, ##board -> skateboard, [0, 1]."""
    words: list[str] = []
    groups: list[list[int]] = []
    for i, piece in enumerate(pieces):
        if piece.startswith("##") and words:
            words[-1] += piece.removeprefix("##")
            groups[-1].append(i)
        else:
            words.append(piece)
            groups.append([i])
    return words, groups


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
