"""The annotation lists of grounding (`refcoco+_train.json`, ...): an image, a phrase, and what it refers to."""

from __future__ import annotations

import math
from typing import Any

from pipeline.data.annotations.entries import Entry, Format, text_of
from samples.quote import quote


def pair_of(value: dict[str, Any]) -> Entry:
    """One entry to train on: the image, whose path is its identity, and the phrase. A box beside them is not read.

    Raises: ValueError with what is wrong with it.
    """
    name = text_of(value, "image")
    return Entry(images=(name,), row={"captions": [text_of(value, "text")], "identity": f"image {name}"})


def reference_of(value: dict[str, Any]) -> Entry:
    """One entry to evaluate: also the box of what is meant, in pixels, its number, and what else is known.

    Several phrases may have one `ref_id`: it numbers what they refer to.

    Raises: ValueError with what is wrong with it.
    """
    text_of(value, "image")
    size = value.get("width"), value.get("height")
    return Entry(
        images=(value["image"],),
        row={
            "text": text_of(value, "text"),
            "ref_id": _whole_number(value, "ref_id"),
            "box": box_of(value.get("box"), "box"),
            "image_id": str(value["image_id"]) if isinstance(value.get("image_id"), str | int) else None,
            "split": text_of(value, "split") if "split" in value else None,
            "size": size if size != (None, None) else None,
        },
    )


def box_of(value: Any, what: str) -> list[float]:
    """x, y, width and height; what follows them, such as a score, is left out.

    Raises: ValueError for anything but four finite numbers and more, or an empty box.
    """
    numbers = value[:4] if isinstance(value, list) else []
    is_box = len(numbers) == 4 and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    if not is_box or min(numbers[2:]) <= 0:
        raise ValueError(f"has {quote(repr(value), 60)} as {what}, which is no [x, y, width, height] in pixels")
    return [float(number) for number in numbers]


def _whole_number(value: dict[str, Any], name: str) -> int:
    number = value.get(name)
    if type(number) is not int:
        raise ValueError(f"has {quote(repr(number), 40)} as {name}, which is no whole number")
    return number


PAIRS = Format(layout='{"image": path, "text": phrase}', check=pair_of)
REFERENCES = Format(
    layout='{"image": path, "text": phrase, "ref_id": number, "box": [x, y, width, height]}, and "image_id", "split", '
    '"width" and "height" besides; `python -m data_prep refer` makes such lists of REFER\'s files',
    check=reference_of,
)
