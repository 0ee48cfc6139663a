"""The one way to read an image in this project: allowed formats, maximal size, orientation, and pixels as RGB.

Packing, filtering, training, evaluation and inference all read images through this file, so they see the same pixels.
Embedded colour profiles are ignored, as in the original ALBEF's `Image.open(...).convert("RGB")`.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from samples.image_kinds import is_cut, read_kind, why_no_picture
from samples.png_texts import TextBomb, without_texts
from samples.quote import quote_error, without_memory_addresses

Image.init()  # registers every format; a Pillow built without AVIF has none to offer
FORMATS = tuple({"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"} & set(Image.OPEN))
"""All others are refused by name: EPS starts a program, and nobody needs the rest."""
EXIF_ORIENTATION = 0x0112
ORIENTATION_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


class ImageRefused(Exception):
    """An image that cannot be used: `reason` is the name under which it is counted, `detail` is for the record."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = without_memory_addresses(detail)
        super().__init__(f"{reason}: {self.detail}")


def open_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """Open the image in a file's bytes: its size is known, no pixel is decoded yet (`decode` does that).

    Args:
        max_pixels: an image whose header states more is refused.

    Raises: ImageRefused with reason empty_body, html_instead_of_image, not_an_image, unsupported_format,
        too_many_pixels, truncated_image or broken_image.
    """
    if not data:
        raise ImageRefused("empty_body", "0 bytes")
    kind = read_kind(data)
    if kind is None:
        raise ImageRefused(*why_no_picture(data))
    if kind.upper() not in FORMATS:
        raise ImageRefused("unsupported_format", f"{kind}: this Pillow has no decoder for it")
    try:
        image = Image.open(io.BytesIO(without_texts(data)), formats=FORMATS)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageRefused("too_many_pixels", quote_error(error)) from error
    except TextBomb as error:
        raise ImageRefused("broken_image", str(error)) from error
    except Exception as error:  # Pillow's plugins raise any error on hostile bytes
        raise ImageRefused("truncated_image" if is_cut(data) else "broken_image", quote_error(error)) from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageRefused("too_many_pixels", f"{width} x {height} is more than {max_pixels} pixels")
    if min(width, height) <= 0:
        raise ImageRefused("broken_image", f"{width} x {height}")
    return image


def decode(image: Image.Image) -> None:
    """Decode the first frame of an opened file, in place.

    Raises: ImageRefused with reason truncated_image, broken_image, or unsupported_format where it is not known which
        values are black and white.
    """
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above: decoders of untrusted bytes
        cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise ImageRefused("truncated_image" if cut else "broken_image", quote_error(error)) from error
    if image.mode == "F":
        raise ImageRefused("unsupported_format", "floating-point pixels")
    if image.mode == "I" and not all(0 <= extreme <= 65_535 for extreme in image.getextrema()):  # type: ignore[operator]
        raise ImageRefused("unsupported_format", f"{image.mode} pixels beyond 16 bits")
    if image.mode in ("LAB", "HSV"):
        raise ImageRefused("unsupported_format", f"{image.mode} pixels")


def read_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """Read the image in a file's bytes: decoded, upright, 8-bit RGB.

    Raises: ImageRefused, as `open_image` and `decode`.
    """
    image = open_image(data, max_pixels=max_pixels)
    decode(image)
    return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any image, from a file or from a user, as 8-bit RGB, turned by its EXIF orientation.

    Returns the same object where there is nothing to do. Of an animation, the current frame is used: the first one of a
    newly opened file.
    """
    return to_rgb(upright(image))


def upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation; the result has no orientation that would turn it again."""
    image.load()  # Pillow turns a TIFF by itself; an orientation behind a PNG's pixels is only known then
    method = UPRIGHT.get(orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    for key in ORIENTATION_KEYS:
        turned.info.pop(key, None)
    return turned


def orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none or an unknown one: browsers too show such an image as stored."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """An image in 8-bit RGB: transparency on white; 16-bit grey scaled, which Pillow's own conversion would make white.

    65,535 is white for `I`, 255 for `F`; larger values are clipped.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, straight).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """8-bit grey, scaled by the range of the mode, not of the image."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode != "F":
        values = values / 257  # 65,535 / 255
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
