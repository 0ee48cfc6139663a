"""Pairs of images with a text each, as the models that read two images take them."""

# B pairs of images, or texts

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from albef.inputs.arguments import as_texts
from albef.saved_model import SavedModel
from samples.captions import clean_caption


def pairs_with_texts(
    saved: SavedModel[Any],
    first: Image.Image | Sequence[Image.Image] | Tensor,
    second: Image.Image | Sequence[Image.Image] | Tensor,
    texts: str | Sequence[str],
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Pixels (2B, 3, H, W), the B first images, then the second ones, and the texts' (B, L) ids and mask.

    None where B is 0.

    Args:
        saved: the model, on whose device they are.
        first, second: B images each, of any size and mode, a single image, or a preprocessed tensor (B, 3, H, W).
        texts: B raw texts, or one; they are cleaned like the captions of training.

    Raises: ValueError when the numbers of images and texts differ; TypeError for anything else.
    """
    images, texts = [saved.checked_images(first), saved.checked_images(second)], as_texts(texts)
    if not len(images[0]) == len(images[1]) == len(texts):
        numbers = f"{len(images[0])} first images, {len(images[1])} second images and {len(texts)} texts"
        raise ValueError(f"{numbers} do not go together")
    if not texts:
        return None
    tokens = saved.tokenizer([clean_caption(text) for text in texts], saved.max_text_tokens)
    input_ids, attention_mask = (tensor.to(saved.device) for tensor in tokens)
    return torch.cat([saved.pixels(one) for one in images]), input_ids, attention_mask
