"""Image preprocessing for evaluation and use: no crop, no randomness."""

# H, W the model's image side

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from albef.inputs import as_images, check_one

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's mean of red, green, blue in [0, 1]; the original normalises by it in training and evaluation."""
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's standard deviation."""


def preprocess_image(image: Image.Image, image_size: int) -> Tensor:
    """A picture as the model's input: squashed to a square, antialiased bicubic, normalised.

    The original's test transform (Resize of both sides, ToTensor, Normalize), without torchvision.

    Args:
        image: of any mode; see `to_rgb`.
        image_size: side of the result, pixels.

    Returns: (3, image_size, image_size) float32.

    Raises: TypeError when it is no PIL.Image.
    """
    check_one(image, Image.Image, "a PIL.Image")
    squashed = to_rgb(image).resize((image_size, image_size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(squashed).copy()).permute(2, 0, 1).float() / 255  # (3, H, W)
    return normalise(pixels)


def preprocess_images(images: Image.Image | Sequence[Image.Image], image_size: int) -> Tensor:
    """(B, 3, image_size, image_size) float32 of B pictures, or of one.

    Raises: TypeError for anything else, naming the position of the first one that is no PIL.Image.
    """
    images = as_images(images)
    if not images:
        return torch.empty(0, 3, image_size, image_size)
    return torch.stack([preprocess_image(image, image_size) for image in images])


def normalise(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] to zero mean and unit variance by CLIP's figures."""
    return normalise_(pixels.clone())


def normalise_(pixels: Tensor) -> Tensor:
    """`normalise` in place, for loaders: a new buffer for each image is paid for in page faults."""
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return pixels.sub_(mean).div_(std)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture in 8-bit RGB: transparency on white, 16-bit grey scaled down (PIL's conversion clips it to white)."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit, by the range of the mode, not of the picture: 65,535 is white. `F` counts from 0 to 255."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode != "F":
        values = values / 257  # 65,535 / 255
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
