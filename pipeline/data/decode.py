"""The image of a sample: opened within size limits, decoded and turned upright; or a BadSample with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from pipeline.data.corpus.reader import BadSample
from samples import image as image_reading
from samples.image import ImageRefused
from samples.record import MAX_PIXELS


def open_image(jpg: bytes, name: str) -> Image.Image:
    """The opened image: its upright size is known, its pixels are not decoded yet (`load_pixels` does that).

    An image that its EXIF orientation turns is decoded here; our shards never hold one.

    Raises: BadSample `image_undecodable`, or `image_too_large` above MAX_PIXELS, before a pixel is decoded.
    """
    with _refusals_of(name):
        image = image_reading.open_image(jpg, max_pixels=MAX_PIXELS)
        if image_reading.orientation(image) == 1:
            return image
        image_reading.decode(image)
        return image_reading.upright(image)


def load_pixels(image: Image.Image, name: str) -> Image.Image:
    """The image as upright 8-bit RGB, decoded. Raises: BadSample `image_undecodable` (a cut or damaged file)."""
    with _refusals_of(name):
        image_reading.decode(image)
        return image_reading.upright_rgb(image)


@contextmanager
def _refusals_of(name: str) -> Iterator[None]:
    try:
        yield
    except ImageRefused as refused:
        too_large = refused.reason == "too_many_pixels"
        reason = "image_too_large" if too_large else "image_undecodable"
        raise BadSample(reason, f"{name}: {refused.detail if too_large else refused}") from refused
