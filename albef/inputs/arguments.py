"""Images and texts that a user passes: one or a list of them; anything else is an error.

A string is a sequence of strings to Python, so without this `encode_text("a dog")` would encode five texts of a letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from PIL import Image

Kind = TypeVar("Kind", str, Image.Image)

TEXTS = "a string or a list of strings"
IMAGES = "a PIL.Image or a list of them"
WAYS = {
    (str, "bytes"): "decode it: data.decode()",
    (str, "ndarray"): "give array.tolist()",
    (str, "Series"): "give series.tolist()",
    (Image.Image, "str"): "open it: PIL.Image.open(path)",
    (Image.Image, "PosixPath"): "open it: PIL.Image.open(path)",
    (Image.Image, "bytes"): "open it: PIL.Image.open(io.BytesIO(data))",
    (Image.Image, "ndarray"): "convert it: PIL.Image.fromarray(array), of (H, W, 3) uint8 RGB",
    (Image.Image, "Tensor"): "preprocessed pictures are one tensor (B, 3, H, W): torch.stack(tensors)",
}
"""How to convert what is often passed instead."""


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """A list of texts; a string becomes a list of one.

    Raises: TypeError for anything but strings, naming the position of the first value that is none.
    """
    return _as_list(texts, str, TEXTS)


def as_images(images: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
    """A list of images; a single image becomes a list of one.

    Raises: TypeError for anything but images, naming the position of the first value that is none.
    """
    return _as_list(images, Image.Image, IMAGES)


def check_one(value: object, kind: type[Kind], what: str) -> None:
    """Raise a TypeError unless `value` is a single text (`str`) or image (`PIL.Image.Image`)."""
    if not isinstance(value, kind):
        raise TypeError(f"{what} expected, not {_described(value, kind)}")


def _as_list(values: object, kind: type[Kind], wanted: str) -> list[Kind]:
    if isinstance(values, kind):
        return [values]
    if not isinstance(values, Sequence) or isinstance(values, str | bytes | bytearray | memoryview):
        raise TypeError(f"{wanted} expected, not {_described(values, kind)}")
    for position, value in enumerate(values):
        if not isinstance(value, kind):
            raise TypeError(f"{wanted} expected; at position {position} there is {_described(value, kind)}")
    return list(values)


def _described(value: object, kind: type) -> str:
    name = type(value).__name__
    way = WAYS.get((kind, name))
    if way is None and isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        way = "make a list of it: list(...)"
    return ("None" if value is None else f"a value of type {name}") + (f"; {way}" if way else "")
