"""Any image a web server may answer with -> an upright RGB JPEG, or the reason why not.

Bytes are decoded with Pillow, never by OpenCV: img2dataset's way leaves EXIF-rotated photos sideways and turns
16-bit PNGs white. Embedded colour profiles are ignored, as in the original ALBEF's `Image.open(...).convert("RGB")`.
"""

from __future__ import annotations

import functools
import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

# Pillow's own limit raises at 2 x 89 million pixels whatever the caller wants; `max_pixels` is checked instead,
# on the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

Image.init()  # registers every format; a Pillow built without AVIF has none to offer
ACCEPTED_FORMATS = tuple({"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"} & set(Image.OPEN))
MAX_JPEG_SIDE = 65_500
EXIF_ORIENTATION = 0x0112
SMOOTHING = 0.3  # standard deviation in pixels for each factor of shrinking: docs/decisions.md has the comparison
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    image_size: int = 288
    """Shortest side of a stored image; smaller originals keep their size."""
    jpeg_quality: int = 95
    """Quality of the stored JPEG."""
    max_pixels: int = 100_000_000
    """Originals with more pixels are refused before they are decoded."""


@dataclass(frozen=True)
class EncodedImage:
    jpeg: bytes
    width: int
    height: int
    original_width: int
    """As displayed, that is after the EXIF rotation."""
    original_height: int


class ImageRefused(Exception):
    """An image that cannot become a sample: `reason` is counted, `detail` is kept for the record."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def encode_image(data: bytes, settings: ImageSettings) -> EncodedImage:
    """Decode, put upright, on white, RGB, shortest side at most `image_size`, as JPEG.

    Raises: ImageRefused with reason empty_body, html_instead_of_image, not_an_image, unsupported_format,
        too_many_pixels, side_too_long, truncated_image or broken_image.
    """
    image = _open(data)
    width, height = image.size
    if width * height > settings.max_pixels:
        raise ImageRefused("too_many_pixels", f"{width} x {height} is more than {settings.max_pixels} pixels")
    target = _target_size(width, height, settings.image_size)
    if max(target) > MAX_JPEG_SIDE:
        raise ImageRefused("side_too_long", f"{width} x {height}: a JPEG side ends at {MAX_JPEG_SIDE}")
    orientation = _load(image, target)

    rgb = _to_rgb(image)
    if rgb.size != target:
        rgb = shrink(rgb, target)
    if orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[orientation])
        if orientation >= 5:
            width, height = height, width
    stored = io.BytesIO()
    rgb.save(stored, "JPEG", quality=settings.jpeg_quality)
    return EncodedImage(stored.getvalue(), rgb.width, rgb.height, width, height)


def keep_or_encode(data: bytes, settings: ImageSettings) -> EncodedImage:
    """The bytes as they are where they already are what `encode_image` makes: an upright RGB JPEG, small enough.

    For images that another tool has encoded for training: a second JPEG encoding would only lose. It is decoded all
    the same, and may keep its EXIF.

    Raises: as `encode_image`.
    """
    image = _open(data)
    width, height = image.size
    fits = 0 < min(width, height) <= settings.image_size and width * height <= settings.max_pixels
    if not (fits and image.format == "JPEG" and image.mode == "RGB"):
        return encode_image(data, settings)
    if _load(image, image.size) in UPRIGHT:
        return encode_image(data, settings)
    return EncodedImage(data, width, height, width, height)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageRefused("empty_body", "0 bytes")
    try:
        return Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever hostile bytes make them raise
        raise _why_not_an_image(data, error) from error


def _why_not_an_image(data: bytes, error: Exception) -> ImageRefused:
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return ImageRefused("html_instead_of_image", f"begins with {start[:20]!r}")
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return ImageRefused("unsupported_format", "svg")
    if data[4:8] == b"ftyp":
        return ImageRefused("unsupported_format", f"iso media {data[8:12]!r}")
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")):
        return ImageRefused("broken_image", f"{type(error).__name__}: {_brief(error)}")
    return ImageRefused("not_an_image", f"{len(data)} bytes beginning with {data[:12]!r}")


def _target_size(width: int, height: int, image_size: int) -> tuple[int, int]:
    shortest = min(width, height)
    if shortest <= 0:
        raise ImageRefused("broken_image", f"{width} x {height}")
    if shortest <= image_size:
        return width, height
    scale = image_size / shortest
    return max(image_size, round(width * scale)), max(image_size, round(height * scale))


def _load(image: Image.Image, target: tuple[int, int]) -> int:
    """Decode the first frame in place; the EXIF orientation (1 when there is none)."""
    try:
        # A JPEG decodes at 1/2, 1/4 or 1/8 directly, never below the target: half the time, and a better picture than
        # a cheaper filter over the whole (docs/decisions.md).
        image.draft(None, target)
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above: decoders of untrusted bytes
        reason = (
            "truncated_image" if "truncated" in str(error).lower() or isinstance(error, EOFError) else "broken_image"
        )
        raise ImageRefused(reason, f"{type(error).__name__}: {_brief(error)}") from error
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a broken EXIF block: shown as stored, as a browser does
        return 1
    return orientation if isinstance(orientation, int) else 1


def shrink(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """An RGB image made smaller, without aliasing.

    By OpenCV below a factor of two, where decoding leaves every JPEG, in a third of the time (`benchmarks.resize`).
    """
    factor = image.width / target[0]
    if factor >= 2:
        return image.resize(target, Image.Resampling.BICUBIC)
    cv2 = _opencv()
    # Its bicubic looks at four pixels a side whatever the factor: what is finer than the new grid is smoothed away.
    smooth = cv2.GaussianBlur(np.asarray(image), (3, 3), SMOOTHING * factor)
    return Image.fromarray(cv2.resize(smooth, target, interpolation=cv2.INTER_CUBIC))


@functools.cache
def _opencv() -> Any:
    # Intel's routines inside OpenCV round otherwise on newer processors, and a shard's bytes would depend on where it
    # was made. Those for AVX2 run on all.
    os.environ["OPENCV_IPP"] = "avx2"
    import cv2  # here: it takes a quarter of a second, and most commands that import this module encode nothing

    cv2.setNumThreads(1)  # shards are encoded side by side already
    return cv2


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _sixteen_bit_to_rgb(image)
    if image.mode == "F":
        raise ImageRefused("unsupported_format", "floating-point pixels")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, straight).convert("RGB")
    return image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; Pillow's own conversion clips at 255, which turns such images white."""
    values = np.asarray(image).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65_535:
        raise ImageRefused("unsupported_format", f"{image.mode} pixels beyond 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
