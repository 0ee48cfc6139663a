"""Image preprocessing for evaluation and use: no crop, no randomness."""

# H, W the model's image side

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from albef.inputs.arguments import as_images, check_one
from samples.image import upright_rgb

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's mean of red, green, blue in [0, 1]; the original uses it in training and evaluation."""
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's standard deviation."""


def preprocess_image(image: Image.Image, image_size: int) -> Tensor:
    """An image as the model's input: squashed to a square, antialiased bicubic, normalised.

    The original's test transform (Resize of both sides, ToTensor, Normalize), without torchvision.

    Args:
        image: of any mode; it is turned by its EXIF orientation (`samples.image`).
        image_size: side of the result, pixels.

    Returns: (3, image_size, image_size) float32.

    Raises: TypeError when it is no PIL.Image.
    """
    check_one(image, Image.Image, "a PIL.Image")
    squashed = upright_rgb(image).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return normalise_bytes(torch.from_numpy(np.asarray(squashed).copy()).permute(2, 0, 1))


def preprocess_images(images: Image.Image | Sequence[Image.Image], image_size: int) -> Tensor:
    """(B, 3, image_size, image_size) float32 of B images, or of one.

    Raises: TypeError for anything else, naming the position of the first value that is no PIL.Image.
    """
    images = as_images(images)
    if not images:
        return torch.empty(0, 3, image_size, image_size)
    return torch.stack([preprocess_image(image, image_size) for image in images])


def normalise_bytes(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 to float32 of zero mean and unit variance by CLIP's figures, on the pixels' device.

    The host does not wait for it: the figures are arguments of operations, not tensors to copy to the device.
    """
    normalised = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        normalised.select(-3, channel).sub_(mean).div_(std)
    return normalised
