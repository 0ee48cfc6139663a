"""Where a whole text points: one map for each pair of image and text, and the box it refers to (paper, section 6)."""

# B pairs, L text tokens, G x G cells of a map

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw
from torch import Tensor

from albef.config import AlbefConfig
from albef.downstream.retrieval import AlbefForRetrieval
from albef.gradcam import cross_attention, token_maps
from albef.gradcam_itc import class_attention, image_maps
from albef.grounding.boxes import Box, at_image_size, best_box, box_of_map
from albef.grounding.explanation import overlay
from albef.inputs.arguments import check_one
from albef.inputs.preprocess import preprocess_image
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from samples.captions import clean_caption
from samples.image import upright_rgb

By = Literal["itm", "itc"]
"""itm: cross-attention and the matching logit; itc: the image encoder's attention and the similarity."""


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """What a phrase refers to in an image."""

    image: Image.Image
    """Upright, in RGB."""
    heat: Tensor
    """(G, G) float32, >= 0: the map of the phrase."""
    box: Box
    """x, y, width and height in pixels of the upright image."""
    place: int | None
    """Which of the given boxes it is; None for the box of the map itself."""

    def figure(self) -> Image.Image:
        """The map over the image, and the box."""
        drawn = overlay(self.image, self.heat)
        x, y, width, height = self.box
        line = max(1, round(max(drawn.size) / 150))
        ImageDraw.Draw(drawn).rectangle((x, y, x + width - 1, y + height - 1), outline="white", width=line)
        return drawn


def ground(
    model: AlbefForPretraining | AlbefForRetrieval,
    tokenizer: AlbefTokenizer,
    image: Image.Image,
    phrase: str,
    *,
    boxes: Sequence[Box] = (),
    by: By = "itm",
    layer: int | None = None,
    max_text_tokens: int = 30,
) -> Grounded:
    """The box that a phrase refers to in one image.

    Args:
        image: any image; turned by its EXIF orientation.
        phrase: raw; it is cleaned as captions are.
        boxes: proposals of a detector, of which one is chosen; without any, the box of the map itself.
        by, layer: as in `phrase_maps`.
        max_text_tokens: the phrase is cut to this many tokens.

    Raises: TypeError when it is not one PIL.Image and one string.
    """
    check_one(image, Image.Image, "one PIL.Image")
    check_one(phrase, str, "one string")
    device = next(model.parameters()).device
    picture = upright_rgb(image)
    pixels = preprocess_image(picture, model.config.image_size)[None].to(device)
    input_ids, attention_mask = (x.to(device) for x in tokenizer([clean_caption(phrase)], max_length=max_text_tokens))
    heat = phrase_maps(model, pixels, input_ids, attention_mask, by=by, layer=layer)[0].float().cpu()
    if not boxes:
        return Grounded(image=picture, heat=heat, box=box_of_map(heat, *picture.size), place=None)
    place = best_box(at_image_size(heat, *picture.size), boxes)
    return Grounded(image=picture, heat=heat, box=boxes[place], place=place)


def phrase_maps(
    model: AlbefForPretraining | AlbefForRetrieval,
    image: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    by: By = "itm",
    layer: int | None = None,
) -> Tensor:
    """Grad-CAM of B pairs, (B, G, G), >= 0, in the model's precision; independent of padding but for rounding.

    Args:
        model: its weights, gradients and mode do not change.
        image: (B, 3, H, W) normalised pixels.
        input_ids, attention_mask: (B, L).
        layer: 0-based; of the multimodal encoder for itm, where None takes the third of six or the like, of the image
            encoder for itc, where None takes the last. Both as in the paper.
    """
    number = layer_number(model.config, by, layer)
    if by == "itc":
        return image_maps(class_attention(model, image, input_ids, attention_mask, model.temperature, layer=number))
    maps = token_maps(cross_attention(model, image, input_ids, attention_mask, layer=number), attention_mask)
    return maps.sum(dim=1) / attention_mask.sum(dim=1)[:, None, None]  # the mean over the text's tokens


def layer_number(config: AlbefConfig, by: By, layer: int | None) -> int:
    """The 0-based layer that `phrase_maps` takes. Raises: ValueError for one that the model does not have."""
    depth = config.vision_depth if by == "itc" else config.fusion_depth
    if layer is None:
        return depth - 1 if by == "itc" else (depth - 1) // 2
    if not 0 <= layer < depth:
        raise ValueError(f"the {'image' if by == 'itc' else 'multimodal'} encoder has {depth} layers")
    return layer
