"""The augmentation of pretraining: random crop, flip, RandomAugment; all random numbers are named draws.

The same as the original (dataset/__init__.py): RandomResizedCrop bicubic with scale (0.2, 1), flip, RandomAugment(2,
7). What differs: each image draws from a generator named by (seed, epoch, sample), where the original drew from global
state that its workers shared. The result is bytes, a quarter of the traffic of floats: the device normalises them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.config.sections import AugmentConfig
from pipeline.data.decode import load_pixels, open_image
from pipeline.data.randaugment import rand_augment
from pipeline.data.seeds import Draws

RATIO = (3 / 4, 4 / 3)
"""Range of a crop's width to height, before it is resized to a square."""


def training_image(jpg: bytes, name: str, *, size: int, config: AugmentConfig, draws: Draws) -> Tensor:
    """Decode and augment one image.

    Args:
        jpg: the encoded image.
        name: for messages.
        size: side of the result, pixels.
        draws: this image's own stream.

    Returns: (3, size, size) uint8.

    Raises: BadSample when the image cannot be decoded.
    """
    image = open_image(jpg, name)
    box = (0, 0, image.width, image.height)
    if config.crop_scale_min is not None:
        box = random_crop(image.width, image.height, draws, scale_min=config.crop_scale_min)
    flipped = draws.uniform() < config.flip_probability
    image = crop_resize(image, box, size, name)
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = rand_augment(
        image,
        draws,
        num_ops=config.randaugment_ops,
        level=config.randaugment_level,
        overflow=config.randaugment_overflow,
    )
    return as_bytes(image)


def random_crop(width: int, height: int, draws: Draws, *, scale_min: float) -> tuple[int, int, int, int]:
    """A random box of area scale_min .. 1 of the image and shape RATIO (log-uniform), as torchvision chooses it.

    Returns: (left, top, right, bottom) in pixels. After ten boxes that do not fit, the largest central one that fits.
    """
    log_ratio = (math.log(RATIO[0]), math.log(RATIO[1]))
    for _ in range(10):
        area = width * height * draws.uniform(scale_min, 1.0)
        ratio = math.exp(draws.uniform(*log_ratio))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = draws.integer(width - w + 1), draws.integer(height - h + 1)
            return left, top, left + w, top + h
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def crop_resize(image: Image.Image, box: tuple[int, int, int, int], size: int, name: str) -> Image.Image:
    """The box of an opened image as RGB of size x size, bicubic.

    A JPEG whose box is at least four times `size` both ways is decoded at a half, a quarter or an eighth of its size,
    to no less than twice `size` (libjpeg scales in the frequency domain, at a fraction of the cost of a full decode).
    The scale depends only on the image and its draws; shards made for this recipe's image size are never affected.
    """
    left, top, right, bottom = box
    full_width, full_height = image.size
    shrink = min(right - left, bottom - top) // (2 * size)
    if shrink >= 2:
        scale = max(power for power in (2, 4, 8) if power <= shrink)
        image.draft("RGB", (max(1, full_width // scale), max(1, full_height // scale)))
        x, y = image.width / full_width, image.height / full_height  # both are 1 where the format has no scaled decode
        left, top, right, bottom = round(left * x), round(top * y), round(right * x), round(bottom * y)
    image = load_pixels(image, name).crop((left, top, right, bottom))
    return image.resize((size, size), Image.Resampling.BICUBIC)


def as_bytes(image: Image.Image) -> Tensor:
    """(3, H, W) uint8 of an RGB image: a view of Pillow's order, which keeps a pixel's colours together."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
