"""Any image that a web server may send -> an upright RGB JPEG, or the reason why not.

Images are decoded by `samples.image`, as everywhere in the project, and not by OpenCV as img2dataset does, which leaves
EXIF-rotated photos sideways and turns 16-bit PNGs white.
"""

from __future__ import annotations

import functools
import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from data_prep.output.job import ImageSettings
from samples.image import UPRIGHT, ImageRefused, decode, open_image, orientation, to_rgb

# Pillow's own limit raises at 2 x 89 million pixels, and a caller cannot raise it. `max_pixels` is checked instead, on
# the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

MAX_JPEG_SIDE = 65_500
SMOOTHING = 0.3  # standard deviation in pixels for each factor of shrinking: docs/decisions.md has the comparison


@dataclass(frozen=True)
class EncodedImage:
    jpeg: bytes
    width: int
    height: int
    original_width: int
    """As displayed: after the EXIF rotation."""
    original_height: int


def encode_image(data: bytes, settings: ImageSettings) -> EncodedImage:
    """Decode an image, turn it upright, put it on white as RGB, shrink its shortest side to `image_size`, save as JPEG.

    Raises: ImageRefused with reason empty_body, html_instead_of_image, not_an_image, unsupported_format,
        too_many_pixels, side_too_long, truncated_image or broken_image.
    """
    image = open_image(data, max_pixels=settings.max_pixels)
    width, height = image.size
    target = _target_size(width, height, settings.image_size)
    if max(target) > MAX_JPEG_SIDE:
        raise ImageRefused("side_too_long", f"{width} x {height}: a JPEG side ends at {MAX_JPEG_SIDE}")
    # A JPEG decodes at 1/2, 1/4 or 1/8 directly, never below the target: half the time, and a better picture than a
    # cheaper filter over the whole (docs/decisions.md).
    image.draft(None, target)
    decode(image)
    rgb = to_rgb(image)
    if rgb.size != target:
        rgb = shrink(rgb, target)
    turned = orientation(image)
    if turned in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[turned])
        if turned >= 5:
            width, height = height, width
    stored = io.BytesIO()
    rgb.save(stored, "JPEG", quality=settings.jpeg_quality)
    return EncodedImage(stored.getvalue(), rgb.width, rgb.height, width, height)


def keep_or_encode(data: bytes, settings: ImageSettings) -> EncodedImage:
    """Keep the bytes of an upright RGB JPEG that is small enough, encode anything else.

    For images that another tool has encoded for training: a second JPEG encoding would only lose quality. A kept image
    is decoded as a check, and keeps its EXIF.

    Raises: as `encode_image`.
    """
    image = open_image(data, max_pixels=settings.max_pixels)
    width, height = image.size
    fits = min(width, height) <= settings.image_size
    if not (fits and image.format == "JPEG" and image.mode == "RGB"):
        return encode_image(data, settings)
    decode(image)
    if orientation(image) in UPRIGHT:
        return encode_image(data, settings)
    return EncodedImage(data, width, height, width, height)


def _target_size(width: int, height: int, image_size: int) -> tuple[int, int]:
    shortest = min(width, height)
    if shortest <= image_size:
        return width, height
    scale = image_size / shortest
    return max(image_size, round(width * scale)), max(image_size, round(height * scale))


def shrink(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """An RGB image made smaller, without aliasing.

    Below a factor of two, which is what decoding leaves of every JPEG, OpenCV takes a third of the time
    (`benchmarks.resize`).
    """
    factor = image.width / target[0]
    if factor >= 2:
        return image.resize(target, Image.Resampling.BICUBIC)
    cv2 = _opencv()
    # OpenCV's bicubic reads four pixels a side for any factor: smooth away what is finer than the new grid.
    smooth = cv2.GaussianBlur(np.asarray(image), (3, 3), SMOOTHING * factor)
    return Image.fromarray(cv2.resize(smooth, target, interpolation=cv2.INTER_CUBIC))


@functools.cache
def _opencv() -> Any:
    # Intel's routines inside OpenCV round differently on newer processors, and a shard's bytes would depend on the
    # machine. Those for AVX2 run on all.
    os.environ["OPENCV_IPP"] = "avx2"
    import cv2  # here: it takes a quarter of a second, and most commands that import this module encode nothing

    cv2.setNumThreads(1)  # shards are encoded side by side already
    return cv2
