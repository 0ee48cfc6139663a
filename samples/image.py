"""One reading of a picture for all of the project: which formats, how large, which way up, and its pixels as RGB.

Whoever packs, filters, trains, evaluates or asks the model reads through this file, so a picture shows the same to all.
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
"""All others (EPS starts a program, others are read by nobody) are refused by their name."""
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
    """A picture that cannot be used: `reason` is the name under which it is counted, `detail` is for the record."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = without_memory_addresses(detail)
        super().__init__(f"{reason}: {self.detail}")


def open_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """The picture in a file's bytes, opened: its size is known, no pixel is decoded (`decode` does that).

    Args:
        max_pixels: a header that states more is refused.

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
    except Exception as error:  # Pillow's plugins raise whatever hostile bytes make them raise
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
    """The picture in a file's bytes: decoded, upright, 8-bit RGB.

    Raises: ImageRefused, as `open_image` and `decode`.
    """
    image = open_image(data, max_pixels=max_pixels)
    decode(image)
    return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any picture, a file's or a user's, as 8-bit RGB, turned as its EXIF orientation says.

    The same object where there is nothing to do. An animation is its current frame, that of a fresh file the first.
    """
    return to_rgb(upright(image))


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; the result has no orientation that would turn it again."""
    image.load()  # Pillow turns a TIFF by itself; an orientation behind a PNG's pixels is only known then
    method = UPRIGHT.get(orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    for key in ORIENTATION_KEYS:
        turned.info.pop(key, None)
    return turned


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or one that EXIF does not know: shown as stored, as browsers do."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture in 8-bit RGB: transparency on white, 16-bit grey scaled, where Pillow's own conversion makes it white.

    65,535 is white for `I`, 255 for `F`; what lies beyond is cut.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, straight).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """8-bit grey by the range of the mode, not of the picture."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode != "F":
        values = values / 257  # 65,535 / 255
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
