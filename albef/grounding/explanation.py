"""Where a model looks for each word of a text: Grad-CAM on cross-attention, as arrays and as a figure."""

# W words, G x G cells of a map

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from albef.downstream.retrieval import AlbefForRetrieval
from albef.gradcam import cross_attention, token_maps
from albef.inputs.arguments import check_one
from albef.inputs.preprocess import preprocess_image
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from samples.captions import clean_caption
from samples.image import upright_rgb

COLOURS = np.array([(0, 0, 128), (0, 0, 255), (0, 255, 255), (255, 255, 0), (255, 0, 0), (128, 0, 0)], dtype=np.float64)
"""Dark blue to dark red, evenly spaced: the usual colours of a heat map."""
GAP, LINE = 8, 20
"""Pixels between the pictures of a figure, and of a line below one."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A map over the image for each word of a text, and for parts of it."""

    image: Image.Image
    """Upright, in RGB."""
    words: list[str]
    """W words of the cleaned text, rejoined from the tokenizer's pieces."""
    maps: Tensor
    """(W, G, G) float32, >= 0; a word of several pieces has their mean."""
    text_map: Tensor
    """(G, G) mean over all tokens, [CLS] included."""
    match: float
    """Probability that image and text match."""

    def phrase(self, words: str) -> Tensor:
        """(G, G): the mean over the words of a part of the text, where it comes first.

        Raises: ValueError when the text has no such part.
        """
        wanted = clean_caption(words).split()
        for start in range(len(self.words) - len(wanted) + 1):
            if wanted and self.words[start : start + len(wanted)] == wanted:
                return self.maps[start : start + len(wanted)].mean(dim=0)
        raise ValueError(f"{words!r} is no part of the text {' '.join(self.words)!r}")

    def figure(self, phrases: Sequence[str] = (), *, side: int = 240, columns: int = 4) -> Image.Image:
        """The image, then the map of the whole text over it, then those of the words or phrases, each with its text.

        Args:
            phrases: parts of the text; without any, every word.
            side: longer side of a picture, pixels.
            columns: pictures in a row.

        Raises: ValueError as `phrase`.
        """
        scale = side / max(self.image.size)
        size = (max(1, round(self.image.width * scale)), max(1, round(self.image.height * scale)))
        shown = self.image.resize(size, Image.Resampling.LANCZOS)
        named = [(words, self.phrase(words)) for words in phrases] or list(zip(self.words, self.maps, strict=True))
        tiles = [(f"match {self.match:.2f}", shown), ("the whole text", overlay(shown, self.text_map))]
        tiles += [(words, overlay(shown, heat)) for words, heat in named]
        columns = min(columns, len(tiles))
        step = (size[0] + GAP, size[1] + GAP + LINE)
        canvas = Image.new("RGB", (columns * step[0] + GAP, -(-len(tiles) // columns) * step[1] + GAP), "white")
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(LINE - 6)
        for number, (text, picture) in enumerate(tiles):
            x, y = GAP + number % columns * step[0], GAP + number // columns * step[1]
            canvas.paste(picture, (x, y))
            draw.text((x, y + size[1] + 2), _fitting(text, size[0], draw, font), fill="black", font=font)
        return canvas


def explain(
    model: AlbefForPretraining | AlbefForRetrieval,
    tokenizer: AlbefTokenizer,
    image: Image.Image,
    text: str,
    *,
    layer: int | None = None,
    max_text_tokens: int = 30,
) -> Explanation:
    """Grad-CAM of one image and one text, with a map for each word.

    Args:
        model: its weights, gradients and mode do not change.
        image: any image; turned by its EXIF orientation, then squashed to the model's square, so a map covers it all.
        text: raw; it is cleaned as captions are.
        layer: number of the multimodal layer, as in `albef.gradcam.cross_attention`.
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
    return Explanation(
        image=upright_rgb(image),
        words=words,
        maps=torch.stack([maps[1:][group].mean(dim=0) for group in groups]) if words else maps[:0],
        text_map=maps.mean(dim=0),
        match=float(found.logits[0].softmax(dim=0)[1]),
    )


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


def _fitting(
    text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """A text cut to a width in pixels."""
    kept = text
    while kept and draw.textlength(kept if kept == text else f"{kept}...", font=font) > width:
        kept = kept[:-1]
    return kept if kept == text else f"{kept}..."
